"""descant in the places where people already work: `model.generate`, frameworks that take processors, lm-eval.

transformers_generate.py  methods for `model.generate(…, custom_generate=…)`
columns.py                the engine's rows as `model.generate` shows them: a padded batch, column by column
logits_processor.py       the contrast as a transformers `LogitsProcessor`
lm_eval.py                a model for lm-evaluation-harness

`examples/hub` is a repository of a method, as it is pushed to the hub.
"""
