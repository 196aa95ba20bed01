"""The public face: a pair of models, and text from them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.calls.models import Models
from descant.calls.options import Options, check_batch_size, check_scoring, check_strategy, list_processors
from descant.calls.prepare import prepare_pairs, prepare_rows
from descant.calls.prompts import Prompts
from descant.calls.run import Run
from descant.checks import shown, whole
from descant.describe import describe
from descant.engine.loop import Engine
from descant.engine.warm_up import warm_up
from descant.errors import DescantError, SettingsError
from descant.method import Method
from descant.models import RunnerName
from descant.models.loading import eos_token_ids, load_model, load_tokenizer
from descant.models.wrapped import unwrapping
from descant.processors import Processor
from descant.processors.adapter import as_processor
from descant.results import Output, Piece, Score
from descant.scoring import Contrastive, Likelihood, Scoring
from descant.sources import EarlyExit
from descant.sources.amateur import Amateur, AnyAmateur, describe_model
from descant.sources.confident_exit import ConfidentExit
from descant.strategies import Greedy, Strategy
from descant.tokens import decode

__all__ = [
    "Decoder",
]

Name = str | PathLike[str]
"""A hub id, or a local folder."""

_GREEDY = Greedy()


class Decoder:
    """An expert, perhaps its amateur, and a tokenizer: everything needed to decode text.

    Parameters
    ----------
    expert
        Any transformers causal language model. It is put in evaluation mode and otherwise left as it is. Of something
        that wraps one, give the model inside: of a PEFT model `get_base_model()`, whose layers hold the adapter.
    tokenizer
        Its tokenizer; without one, prompts are token ids and outputs have no text.
    amateur
        A model that shares the expert's tokens (a smaller one, an earlier checkpoint), `EarlyExit(layer)`,
        `Window(model, tokens)`, `OtherPrompt(prompt)`, `NGram(n)`, or, with other tokens,
        `OtherTokenizer(model, tokenizer)`.
    amateur_tokenizer
        The amateur's tokenizer, to be compared with the expert's.
    sources
        What else a scoring reads, by the name it has there: `{"tuned": model, "untuned": model}` for `ProxyTuning`,
        `"positive"` and `"negative"` for `DExperts`. Whatever can be an amateur can be a source,
        but for `OtherTokenizer`.
    source_tokenizers
        Their tokenizers by name, as far as they are known.
    runner
        How forward passes run. `"eager"`: as transformers runs them. `"compiled"`: decode passes of models on a CPU
        are compiled when their shape is first met, which takes from ten seconds, and kept on disk for later
        processes. `"auto"`: compiled where that has been done before, or by `warm_up`, else eager. `"graph"`: on a
        GPU, decode passes are captured as CUDA graphs, and plain decoding as whole steps, of which the next are
        launched before one is read.
    confident_exit
        When tokens skip the rest of the expert's layers, which is faster and gives other text: `ConfidentExit(…)`. The
        expert's passes are eager then. None: never.

    Attributes
    ----------
    expert, amateur, tokenizer, sources
        As given.

    Raises
    ------
    VocabularyError
        If the models do not share their tokens.
    LoadError, UnsupportedModelError
        If a model cannot play its part.
    SettingsError
        If an early exit does not exist.
    """

    def __init__(
        self,
        expert: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        amateur: AnyAmateur | None = None,
        *,
        amateur_tokenizer: PreTrainedTokenizerBase | None = None,
        sources: Mapping[str, AnyAmateur] | None = None,
        source_tokenizers: Mapping[str, PreTrainedTokenizerBase] | None = None,
        runner: RunnerName = "auto",
        confident_exit: ConfidentExit | None = None,
    ) -> None:
        if not isinstance(expert, PreTrainedModel):
            raise SettingsError(
                f"{shown(expert)} is no loaded model; "
                + unwrapping(expert, "for a name use Decoder.from_pretrained(name)")
            )
        self.expert = expert
        self.tokenizer = tokenizer
        self.amateur = amateur
        self.sources = dict(sources or {})
        self.runner = runner
        self.confident_exit = confident_exit
        tokenizers = dict(source_tokenizers or {})
        if amateur_tokenizer is not None:
            tokenizers["amateur"] = amateur_tokenizer
        self._models = Models(expert, amateur, self.sources, tokenizer, tokenizers, runner, confident_exit)

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Every id that ends a text: what the expert's generation config has now, else its config or the tokenizer."""
        return eos_token_ids(self.expert, self.tokenizer)

    @property
    def bridged(self) -> bool:
        """Whether the amateur's tokenizer is another than the expert's, so that it judges tokens by their bytes."""
        return self._models.bridged

    @classmethod
    def from_pretrained(
        cls,
        expert: Name,
        *,
        amateur: Name | AnyAmateur | None = None,
        sources: Mapping[str, Name | AnyAmateur] | None = None,
        device: str = "auto",
        dtype: str = "auto",
        allow_pickle: bool = False,
        trust_remote_code: bool = False,
        revision: str | None = None,
        pack: bool | Literal["auto"] = "auto",
        quantization: Literal["int8", "int4"] | None = None,
        amateur_quantization: Literal["int8", "int4"] | None = None,
        runner: RunnerName = "auto",
        confident_exit: ConfidentExit | None = None,
    ) -> "Decoder":
        """Load a pair from hub ids or local folders.

        Parameters
        ----------
        expert
            Hub id or folder of the expert and its tokenizer.
        amateur
            Hub id or folder, `EarlyExit(layer)`, `Window(name or model, tokens)`, `OtherTokenizer(name)`, or a loaded
            model, or another setting.
        sources
            Hub ids or folders of what else a scoring reads, or settings, by name (see `Decoder`).
        device
            `"auto"` takes cuda, then mps, then cpu.
        dtype
            `"auto"` keeps each checkpoint's own, but takes float32 where a CPU has no instructions for a half-precision
            one and float32 needs at most half of the free memory; `Output.method` tells which and why. Or `"float32"`,
            `"bfloat16"`, …, which are kept.
        allow_pickle
            Whether weights may be read from pickle files, which can run code; otherwise safetensors only.
        trust_remote_code
            Whether code that comes with a checkpoint may run.
        revision
            Branch, tag or commit of the expert's hub repository.
        pack
            Whether the models' linear layers are laid out for fast products on a CPU, after which they cannot be saved
            or moved. `"auto"`: in bfloat16, where results stay the same and speed up to doubles.
        quantization, amateur_quantization
            Rounds the weights of the expert, or of the amateur, to `"int8"` or `"int4"` on a CPU: fewer bytes to read,
            other results.
        runner, confident_exit
            How forward passes run (see `Decoder`).

        Raises
        ------
        LoadError
            If a checkpoint is missing, damaged, or not a causal language model.
        """
        safety = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}

        def load(name: Name, revision: str | None, rounded: Literal["int8", "int4"] | None) -> PreTrainedModel:
            return load_model(
                fspath(name), device=device, dtype=dtype, revision=revision, pack=pack, quantization=rounded, **safety
            )

        # Tokenizers first: a name that is wrong fails before any weights are read.
        tokenizer = load_tokenizer(fspath(expert), trust_remote_code=trust_remote_code, revision=revision)
        named: dict[str, Any] = {} if amateur is None else {"amateur": amateur}
        parts = {**named, **(sources or {})}
        found = ((name, _named(part)) for name, part in parts.items())
        names = {name: checkpoint for name, checkpoint in found if checkpoint is not None}
        tokenizers = {
            name: load_tokenizer(fspath(checkpoint), trust_remote_code=trust_remote_code)
            for name, checkpoint in names.items()
        }
        if amateur_quantization is not None and "amateur" not in names:
            raise SettingsError(
                f"amateur_quantization={amateur_quantization!r} rounds an amateur that is loaded by its name, and "
                f"this is {shown(amateur)}; leave it out"
            )
        model = load(expert, revision, quantization)
        for name, checkpoint in names.items():
            other = load(checkpoint, None, amateur_quantization if name == "amateur" else None)
            part = parts[name]
            parts[name] = part.with_model(other, tokenizers[name]) if isinstance(part, Amateur) else other
        return cls(
            model,
            tokenizer,
            parts.pop("amateur", None),
            amateur_tokenizer=tokenizers.pop("amateur", None),
            sources=parts,
            source_tokenizers=tokenizers,
            runner=runner,
            confident_exit=confident_exit,
        )

    @classmethod
    def demo(cls, *, device: str = "auto", amateur: EarlyExit | None = None, runner: RunnerName = "auto") -> "Decoder":
        """Load the pair that ships with descant; no download.

        Parameters
        ----------
        device
            As in `from_pretrained`.
        amateur
            An early exit of the bundled expert, to be used in place of the bundled amateur.
        runner
            As in `from_pretrained`.
        """
        from descant.demo import demo_paths

        expert, bundled = demo_paths()
        return cls.from_pretrained(expert, amateur=amateur or bundled, device=device, dtype="float32", runner=runner)

    def generate(
        self,
        prompts: Prompts,
        scoring: Scoring | None = None,
        processors: Sequence[Any] | None = (),
        strategy: Strategy = _GREEDY,
        max_new_tokens: int = 256,
        stop: str | Sequence[str] | None = (),
        ignore_eos: bool = False,
        seed: int | None = None,
        *,
        chat: bool = False,
        system: str | None = None,
        top_logprobs: int = 0,
        trace: bool = False,
        batch_size: int = 64,
        amateur_prompts: Prompts | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> list[Output]:
        """Decode every prompt and return one output for each, in order.

        Parameters
        ----------
        prompts
            A text, texts, rows of token ids, or (with `chat`) chats: lists of `{"role": …, "content": …}`. An
            assistant's message at the end is continued. A content may be parts of text, `[{"type": "text", "text":
            …}]`; the assistant's may be missing beside its `tool_calls`.
        scoring
            What a good next token is. Default: `Contrastive()` with an amateur, else `Likelihood()`.
        processors
            descant's processors or transformers' `LogitsProcessor`s, applied in the order given.
        strategy
            `Greedy()`, `Sample()`, `Speculative(…)` of either, which is the same from fewer passes of the expert,
            `Beam(…)`, whose other sequences are the output's `alternatives`, or `ContrastiveSearch(…)`.
        max_new_tokens
            The most tokens a row may gain; the model's context may end it earlier. Both give `"length"`.
        stop
            Strings that end a row, matched literally in the new text, across token boundaries. They may hold special
            tokens (`"<|im_end|>\\n"`), written out: these are seen here, though the text does not show them.
        ignore_eos
            Whether end-of-sequence ids are tokens like others.
        seed
            Seeds each row's generator together with its index; None draws one, which the result records. With
            `Sample(rng="transformers")` it is given to `torch.manual_seed`, and None leaves that generator alone.
        chat
            Whether texts are the user's turn in the tokenizer's chat template.
        system
            The system prompt of that template.
        top_logprobs
            How many of the most probable tokens each step reports.
        trace
            Whether each token reports why it was chosen; the amateur is then read at every step.
        batch_size
            How many rows are decoded at once; each beam is one, and each candidate of a contrastive search. Others
            join as rows end.
        amateur_prompts
            What an amateur `OtherPrompt()` reads in place of each prompt, in any form that prompts may have.
        cancelled
            Asked between steps; once it returns True every unfinished row ends as `"cancelled"`.

        Raises
        ------
        PromptError
            If a prompt is empty, malformed or longer than the context.
        SettingsError
            If a setting is out of its range.
        OutOfMemoryError
            If the rows cannot fit, with the figure.
        DecodingError
            If logits are not finite numbers, or processors forbid every token. `error.outputs` holds the rows that
            had ended by then.
        """
        options = Options(
            scoring, processors, strategy, max_new_tokens, stop, ignore_eos, seed,
            chat, system, top_logprobs, trace, batch_size,
        )  # fmt: skip
        run = self._run(prompts, options, amateur_prompts, follow=False)
        outputs: dict[int, Output] = {}
        try:
            for piece in run.pieces(cancelled):
                if piece.output is not None:
                    outputs[piece.index] = piece.output
        except DescantError as error:
            error.outputs = outputs
            raise
        return [outputs[index] for index in range(len(outputs))]

    def stream(
        self,
        prompts: Prompts,
        scoring: Scoring | None = None,
        processors: Sequence[Any] | None = (),
        strategy: Strategy = _GREEDY,
        max_new_tokens: int = 256,
        stop: str | Sequence[str] | None = (),
        ignore_eos: bool = False,
        seed: int | None = None,
        *,
        chat: bool = False,
        system: str | None = None,
        top_logprobs: int = 0,
        trace: bool = False,
        batch_size: int = 64,
        amateur_prompts: Prompts | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Iterator[Piece]:
        """Decode and yield text as it becomes certain; the arguments are those of `generate`.

        The pieces of a row joined are its output's text: no piece breaks a character or shows a part of a stop
        string. A beam search knows its text at its end, and yields it as one piece. Pieces of several prompts come
        interleaved, told apart by `Piece.index`. The last piece of a row carries its `output`. Arguments are checked
        at once, before the first piece is asked for.
        """
        options = Options(
            scoring, processors, strategy, max_new_tokens, stop, ignore_eos, seed,
            chat, system, top_logprobs, trace, batch_size,
        )  # fmt: skip
        return self._run(prompts, options, amateur_prompts, follow=True).pieces(cancelled)

    def score(
        self,
        prompts: Prompts,
        continuations: Prompts,
        scoring: Scoring | None = None,
        processors: Sequence[Any] | None = (),
        *,
        batch_size: int = 16,
        amateur_prompts: Prompts | None = None,
    ) -> list[Score]:
        """Return the log-probability of each continuation after its prompt, under any method.

        Parameters
        ----------
        prompts, continuations
            Texts or rows of token ids, equally many.
        scoring
            As in `generate`.
        processors
            As in `generate`; the probability of a token is the softmax of the processed scores.
        batch_size
            How many pairs are read at once.
        amateur_prompts
            As in `generate`.

        Returns
        -------
        list of Score
            One a pair: a float (natural logarithm), with `token_ids` and the `logprobs` that add up to it.
        """
        if self.confident_exit is not None:
            raise SettingsError(
                "score reads whole texts, and a ConfidentExit concerns new tokens; score with a Decoder that has none"
            )
        scoring = self._scoring(check_scoring(scoring))
        batch_size = check_batch_size(batch_size)
        rows, given = prepare_pairs(self._models, self.tokenizer, scoring, prompts, continuations, amateur_prompts)
        method = Method(scoring, self._processors(list_processors(processors)), given)
        sources = self._models.open(scoring, given)
        engine = Engine(sources, method, batch_rows=len(rows), max_rows=batch_size, top_logprobs=1)
        engine.add(rows)
        while engine.busy:
            engine.step()
        return [
            Score(row.new_tokens, row.logprobs, greedy=[best for [(best, _)] in row.top_logprobs] == row.new_tokens)
            for row in rows
        ]

    def warm_up(
        self, scoring: Scoring | None = None, strategy: Strategy = _GREEDY, *, rows: Sequence[int] = (1,)
    ) -> bool:
        """Make compiled code ready for a method now, as a server does when it starts, and return whether all is.

        What is on disk is loaded, and the rest compiled, which takes from ten seconds a shape, once: one or a few
        shapes of each model, and of speculation about ten. Reading prompts is always eager.

        Parameters
        ----------
        scoring, strategy
            As in `generate`.
        rows
            How many rows are decoded at once, for each number there may be; a beam is a row. Code for 1, 2, 4, …, 64
            rows serves what lies below, too, and is slower there than code of its own.

        Returns
        -------
        bool
            Whether the method's passes will run compiled (with `runner="graph"`: captured, when they first run); False
            with `runner="eager"`, where nothing compiles or can, where one of the models keeps a state of its own or
            reads text anew, and where the expert's layers are looked into.
        """
        counts = [whole("warm_up.rows", count, 1, "give whole numbers from 1") for count in rows]
        scoring = self._scoring(check_scoring(scoring))
        return warm_up(self._models.open(scoring, check_strategy(strategy)), strategy, counts)

    def _run(self, prompts: Prompts, options: Options, amateur_prompts: Prompts | None, *, follow: bool) -> Run:
        """Check every argument and set up rows and engine."""
        scoring = self._scoring(options.scoring)
        method = Method(scoring, self._processors(options.processors or ()), options.strategy)
        rows, seed = prepare_rows(
            self._models, self.tokenizer, scoring, prompts, amateur_prompts, options, self.eos_token_ids, follow=follow
        )
        engine = Engine(
            self._models.open(scoring, options.strategy),
            method,
            batch_rows=len(rows),
            max_rows=options.batch_size,
            top_logprobs=options.top_logprobs,
            trace=self._token_text if options.trace else None,
        )
        return Run(engine, rows, self._record(method, options, seed), self.tokenizer)

    def _record(self, method: Method, options: Options, seed: int | None) -> dict[str, Any]:
        """Return every resolved setting as plain data."""
        read = method.scoring.sources
        settings = {**describe(options), **describe(method)}
        del settings["name"]  # the dataclasses' own
        drafting = method.strategy.drafting
        if drafting is not None:
            drafts = self.amateur if drafting.setting is None else drafting.setting
            settings["strategy"]["draft"] = describe_model(drafts)
        return {
            **settings,
            "seed": seed,
            "runner": self.runner,
            "confident_exit": describe(self.confident_exit),
            "eos_token_ids": list(self.eos_token_ids),
            "expert": describe_model(self.expert),
            "amateur": describe_model(self.amateur) if "amateur" in read else None,
            "sources": {name: describe_model(self.sources[name]) for name in self.sources if name in read},
        }

    def _scoring(self, scoring: Scoring | None) -> Scoring:
        if scoring is None:
            scoring = Contrastive() if self._models.has_amateur else Likelihood()
        return self._models.resolve(scoring)

    def _processors(self, processors: Sequence[Any]) -> tuple[Processor, ...]:
        return tuple(as_processor(processor).with_eos(self.eos_token_ids) for processor in processors)

    def _token_text(self, token_id: int) -> str:
        return "" if self.tokenizer is None else decode(self.tokenizer, [token_id])


def _named(part: Name | AnyAmateur) -> Name | None:
    """Return the name of a checkpoint that a source is to be loaded from."""
    model = part.reads if isinstance(part, Amateur) else part
    return model if isinstance(model, (str, PathLike)) else None
