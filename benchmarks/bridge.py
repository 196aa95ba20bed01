"""Contrast and drafts across tokenizers: what they cost beside the same models with one tokenizer."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers import decoders as token_decoders
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from benchmarks.shapes import bundled, endless
from descant import Contrastive, Decoder, Greedy, Likelihood, OtherTokenizer, Speculative
from descant.demo import questions
from descant.lab.bench.measure import Spread, interleaved, ratio

Row = dict[str, Any]

NEW_TOKENS, ROUNDS = 32, 7
TOKENIZERS = ("byte-level", "sentencepiece", "wordpiece")


def bridge() -> list[Row]:
    """Contrastive decoding of the bundled expert with amateurs of other tokenizers, against the bundled pair.

    "One token more" is the bundled amateur, whose tokenizer has a token added that its logits do not reach: it is read
    byte by byte, with trained weights, and nearly the same tokens. The others have its shape, tokenizers trained on the
    questions, and RANDOM weights, which give odd tokenizations more probability, and so have more paths to read. Steps
    that the expert settles alone read no amateur; which ones do depends on the text, and so on the amateur. Passes and
    rows of the amateur are counted over one whole call; paths of a text share its keys and values.
    """
    expert, amateur, tokenizer = bundled()
    texts = [question.prompt for question in questions("dev")]
    others = {kind: _train(kind, texts) for kind in TOKENIZERS}
    amateurs: dict[str, Any] = {"the expert's": amateur}
    amateurs["one token more"] = OtherTokenizer(amateur, _longer(tokenizer))
    for kind, other in others.items():
        amateurs[kind] = OtherTokenizer(_like(amateur, len(other)), other)
    amateurs["wordpiece, budget 0"] = OtherTokenizer(amateurs["wordpiece"].model, others["wordpiece"], budget=0)
    table = []
    for rows in (1, 8):
        cases: dict[str, Callable[[], Any]] = {}
        passes: dict[str, tuple[float, float]] = {}
        prompts = texts[:rows]
        for kind, part in amateurs.items():
            decoder = Decoder(expert, tokenizer, part)
            run = partial(_decode, decoder, prompts, Contrastive(alpha=0.1))
            model = part.model if isinstance(part, OtherTokenizer) else part
            with _counting(model) as counted:  # compiled passes do not go through the module
                _decode(Decoder(expert, tokenizer, part, runner="eager"), prompts, Contrastive(alpha=0.1))
            passes[f"contrastive, amateur's tokenizer: {kind}"] = (
                counted[0] / NEW_TOKENS,
                counted[1] / NEW_TOKENS / rows,
            )
            cases[f"contrastive, amateur's tokenizer: {kind}"] = run
        draft = Speculative(draft=amateurs["one token more"], tokens=3)
        cases["greedy"] = partial(_decode, Decoder(expert, tokenizer), prompts, Likelihood())
        cases["greedy, drafts of one token more"] = partial(
            _decode, Decoder(expert, tokenizer), prompts, Likelihood(), draft
        )
        seconds = interleaved(cases, rounds=ROUNDS)
        plain = seconds["contrastive, amateur's tokenizer: the expert's"]
        for name, times in seconds.items():
            per_step, rows_of_all = passes.get(name, (0.0, 0.0))
            table.append(
                {
                    "method": name,
                    "batch": rows,
                    "ms/step": Spread.of([time / NEW_TOKENS * 1e3 for time in times]),
                    "× plain contrast": ratio(times, plain),
                    "amateur passes/step": f"{per_step:.1f}" if per_step else "",
                    "amateur rows/token": f"{rows_of_all:.1f}" if per_step else "",
                }
            )
    return table


def _decode(decoder: Decoder, prompts: list[str], scoring: Any, strategy: Any = None) -> Any:
    strategy = strategy or Greedy()
    return decoder.generate(prompts, scoring, strategy=strategy, max_new_tokens=NEW_TOKENS, ignore_eos=True)


@contextmanager
def _counting(model: PreTrainedModel) -> Iterator[list[int]]:
    """Count passes, and the rows in them."""
    counted = [0, 0]

    def count(_module: Any, _args: Any, given: dict[str, Any]) -> None:
        counted[0] += 1
        counted[1] += len(given["input_ids"])

    handle = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield counted
    finally:
        handle.remove()


def _longer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    longer = copy.deepcopy(tokenizer)
    longer.add_tokens(["<one more>"])
    return longer


def _like(model: PreTrainedModel, vocabulary: int) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(**{**model.config.to_dict(), "vocab_size": vocabulary})
    return endless(AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval())


def _train(kind: str, texts: list[str], size: int = 1500) -> PreTrainedTokenizerFast:
    """Train a tokenizer on the questions; the vocabularies are about as large as the bundled one's."""
    special = {"show_progress": False, "vocab_size": size}
    if kind == "byte-level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = token_decoders.ByteLevel()
        trainer: Any = trainers.BpeTrainer(initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), **special)
    elif kind == "sentencepiece":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = token_decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", special_tokens=["<unk>"], **special)
    else:
        tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = token_decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(special_tokens=["[UNK]"], **special)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
