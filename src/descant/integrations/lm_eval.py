"""descant as a model of lm-evaluation-harness: any method, under its multiple-choice, perplexity and generation tasks.

    python -m descant.integrations.lm_eval --model descant --model_args method=contrastive,alpha=0.1 --tasks …

is `lm_eval` with this model registered. Gao et al., "A framework for few-shot language model evaluation"
(github.com/EleutherAI/lm-evaluation-harness); the extra `[eval]` brings it.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from descant.calls.prompts import require_tokenizer
from descant.checks import whole
from descant.cli.methods import Resolved, choose, speculate
from descant.cli.models import choose_draft, load_draft, load_models, plan_models
from descant.cli.options import DraftOptions, MethodOptions, ModelOptions
from descant.decoder import Decoder
from descant.describe import describe
from descant.errors import PromptError, SettingsError
from descant.models import inspect_model
from descant.sources.amateur import describe_model

_UNBOUNDED = 2048
"""Tokens of a window, where models set no limit; lm-eval's own default."""

Encoded = tuple[Any, list[int], list[int]]
"""A request, or None; the tokens of its context and of its continuation."""


@register_model("descant")
class DescantLM(TemplateLM):
    """A decoder and its method, as lm-eval asks for them.

    Parameters
    ----------
    method
        A preset (`descant methods`); None: contrastive with an amateur, else greedy.
    batch_size
        How many requests are read or decoded at once; `"auto"` is 16.
    device
        `"cuda"`, `"mps"` or `"cpu"`; None: the first there is. lm-eval's command passes `"cuda:0"` where it was told
        nothing, which counts as None on a machine without.
    max_length
        The most tokens of a request; None: the models' context.
    max_gen_toks
        The most new tokens where a task names no limit.
    seed
        Makes sampling repeatable.
    decoder
        A loaded pair, in place of the options that name one.
    options
        The options of `descant generate` by their names (`expert`, `amateur`, `pair`, `amateur_layer`, `alpha`, `beta`,
        `temperature`, `top_p`, `draft_tokens`, …); without any of models, the bundled pair.

    Raises
    ------
    UsageError
        If an option does not exist, has no effect, or is out of its range.

    Notes
    -----
    A log-likelihood is that of the method: of the softmax of its scores after its processors, −inf where it would never
    write a token. `is_greedy` tells whether greedy decoding by it would write the continuation. Tokens and contexts are
    cut as lm-eval's own `hf` model does, so that `method=greedy` gives its numbers.

    What a task asks of sampling is added to the method; the method's own options win.
    """

    def __init__(
        self,
        method: str | None = None,
        batch_size: int | str = 16,
        device: str | None = None,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        seed: int | None = None,
        decoder: Decoder | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        number = 16 if batch_size == "auto" else batch_size
        self.batch_size = whole("batch_size", int(number), 1, 'give a whole number from 1, or "auto"')
        self.max_gen_toks = whole("max_gen_toks", max_gen_toks, 1, "generate at least 1 token")
        self.seed = seed
        self._method = method
        nowhere = device is None or (device == "cuda:0" and not torch.cuda.is_available())
        models, self._changes, self._draft = _split(options if nowhere else {"device": device, **options})
        if decoder is not None and models != ModelOptions():
            raise SettingsError("decoder is a loaded pair, and options name models too; drop one of them")
        plan = plan_models(models)
        self._has_amateur = plan.has_amateur if decoder is None else decoder.amateur is not None
        self._drafting = choose_draft(self._draft)
        self.method = self._resolve({})
        self.decoder = decoder or load_models(plan, reads_amateur=self.method.reads_amateur)
        if isinstance(self._drafting, str):
            self._drafting = load_draft(self._drafting, plan, self.decoder)
            self.method = self._resolve({})
        self.tokenizer: PreTrainedTokenizerBase = require_tokenizer(self.decoder.tokenizer, "lm-eval")
        self.max_length = max_length or self._context() or _UNBOUNDED

    @property
    def eot_token_id(self) -> int:
        """The end-of-sequence id of the tokenizer."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What precedes a text that has no context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    @property
    def tokenizer_name(self) -> str:
        """The tokenizer, as lm-eval's caches of requests tell it from others."""
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Return the tokens of a text; the tokenizer adds none where the text itself begins with its special one."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(str(self.tokenizer.decode(self.prefix_token_id)))
        return list(self.tokenizer.encode(string, add_special_tokens=add_special_tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return the text of a chat."""
        template: Any = self.tokenizer.apply_chat_template
        turn = {"add_generation_prompt": add_generation_prompt, "continue_final_message": not add_generation_prompt}
        return str(template(chat_history, tokenize=False, **turn))

    def get_model_info(self) -> dict[str, Any]:
        """Return every setting of the method, for lm-eval's results."""
        amateur = self.decoder.amateur if self.method.reads_amateur else None
        named = amateur.config.name_or_path if isinstance(amateur, PreTrainedModel) else describe_model(amateur)
        method = describe(self.method.method)
        return {"method": method, "expert": self.decoder.expert.config.name_or_path, "amateur": named}

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Return the log-probability of each text, in windows of the context's length."""
        found = []
        for request in tqdm(requests, desc="Texts", disable=disable_tqdm):
            (text,) = request.args
            tokens = self.tok_encode(text)
            windows = map(
                make_disjoint_window,
                get_rolling_token_windows(tokens, self.prefix_token_id, max_seq_len=self.max_length, context_len=1),
            )
            scores = self._loglikelihood_tokens([(None, *window) for window in windows], disable_tqdm=True)
            found.append(sum(score for score, _ in scores))
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), found[-1])
        return found

    def _loglikelihood_tokens(
        self, requests: Sequence[Encoded], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        order = sorted(range(len(requests)), key=lambda place: -len(requests[place][1]) - len(requests[place][2]))
        answers: dict[int, tuple[float, bool]] = {}
        parts = self.method.method
        for places in _batches(order, self.batch_size, "Log-likelihoods", disable_tqdm):
            kept = [self._fit(*requests[place][1:]) for place in places]
            prompts, ends = ([pair[side] for pair in kept] for side in (0, 1))
            scores = self.decoder.score(prompts, ends, parts.scoring, parts.processors, batch_size=self.batch_size)
            for place, score in zip(places, scores, strict=True):
                answers[place] = (float(score), score.greedy)
                if requests[place][0] is not None:
                    self.cache_hook.add_partial("loglikelihood", requests[place][0], answers[place])
        return [answers[place] for place in range(len(requests))]

    def _fit(self, context: list[int], continuation: list[int]) -> tuple[list[int], list[int]]:
        """Cut what is too long from the left; the last token is scored and not read."""
        excess = max(0, len(context) + len(continuation) - self.max_length - 1)
        if excess >= len(context):
            raise PromptError(
                f"a continuation of {len(continuation)} tokens leaves its context no room among {self.max_length}; "
                "give a larger max_length"
            )
        return context[excess:], continuation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what follows each context, up to a stop string."""
        groups: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(place)
        texts: dict[int, str] = {}
        for group in groups.values():
            asked = requests[group[0]].args[1]
            arguments, most = self._generation(asked)
            for places in _batches(group, self.batch_size, "Generations", disable_tqdm):
                prompts = [self.tok_encode(requests[place].args[0])[-(self.max_length - most) :] for place in places]
                for place, out in zip(places, self.decoder.generate(prompts, **arguments), strict=True):
                    texts[place] = out.text
                    self.cache_hook.add_partial("generate_until", requests[place].args, out.text)
        return [texts[place] for place in range(len(requests))]

    def _generation(self, asked: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        """Return the arguments of `Decoder.generate` for what a task asks, and the most new tokens."""
        task = dict(normalize_gen_kwargs(asked, self.max_gen_toks))
        stop, most, samples = task.pop("until"), task.pop("max_gen_toks"), task.pop("do_sample")
        changes = {name: value for name, value in task.items() if samples and value is not None}
        unknown = set(changes) - _names(MethodOptions)
        if unknown:
            raise SettingsError(f"the task asks for {', '.join(sorted(unknown))}, which descant has not; override them")
        if most >= self.max_length:
            raise SettingsError(
                f"{most} new tokens leave a prompt no room among {self.max_length}; give a smaller max_gen_toks"
            )
        seed = int(torch.randint(1 << 32, ())) if self.seed is None else self.seed  # lm-eval seeds torch's generator
        method = self._resolve(changes).method if changes else self.method.method
        return {**method.arguments, "stop": [*stop], "max_new_tokens": most, "seed": seed}, most

    def _resolve(self, asked: Mapping[str, Any]) -> Resolved:
        """Return the method, with what a task asks of it."""
        resolved = choose(self._method, {**asked, **self._changes.given()}, has_amateur=self._has_amateur)
        return speculate(resolved, self._draft.given(), self._drafting)

    def _context(self) -> int | None:
        models = [self.decoder.expert]
        if self.method.contrasts and isinstance(self.decoder.amateur, PreTrainedModel):
            models.append(self.decoder.amateur)
        bounds = [inspect_model(model).context for model in models]
        return min((bound for bound in bounds if bound is not None), default=None)


def _split(options: Mapping[str, Any]) -> tuple[ModelOptions, MethodOptions, DraftOptions]:
    """Sort options into groups, as on the command line."""
    left = dict(options)
    if "draft_tokens" in left:
        left["draft_tokens"] = str(left["draft_tokens"])
    found = []
    for group in (ModelOptions, MethodOptions, DraftOptions):
        found.append(group(**{name: left.pop(name) for name in _names(group) if name in left}))
    if left:
        raise SettingsError(f"there is no option {', '.join(left)}; `descant generate --help` lists them")
    models, method, draft = found
    return models, method, draft  # type: ignore[return-value]


def _names(group: type) -> set[str]:
    return {field.name for field in dataclasses.fields(group)}


def _batches(places: Sequence[int], size: int, title: str, quiet: bool) -> Iterator[Sequence[int]]:
    with tqdm(total=len(places), desc=title, disable=quiet) as progress:
        for start in range(0, len(places), size):
            yield places[start : start + size]
            progress.update(len(places[start : start + size]))


if __name__ == "__main__":
    cli_evaluate()
