"""descant in the places where people already work: `model.generate`, frameworks that take processors, lm-eval.

transformers_generate.py  methods for `model.generate(…, custom_generate=…)`
columns.py                rows that end where they like, as `model.generate` shows them: a padded batch, column by column
logits_processor.py       the contrast as a transformers `LogitsProcessor`
lm_eval.py                a model for lm-evaluation-harness
hub/                      a `custom_generate` repository, as it is pushed to the hub
"""
