"""The options that several commands share, each named and explained once.

A command declares groups (`models: ModelOptions`) and `expand` gives it one option for each of their fields.
"""

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, cast, get_type_hints

import typer

_MODELS = "Models"
_METHOD = "Method: the default is contrastive with an amateur, else greedy"
_SAMPLING = "Sampling: any of these makes a method sample; --temperature 0 is greedy"
_PENALTIES = "Penalties and bans"
_RUN = "Run"


def _number(panel: str, text: str, *names: str, least: float | None = None) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel, min=least, show_default=False)


@dataclass(frozen=True)
class ModelOptions:
    """Which models decode, and how they are loaded."""

    expert: Annotated[
        str | None,
        typer.Option(
            help="Hub id or folder of the expert; the bundled pair without it.",
            rich_help_panel=_MODELS,
            show_default=False,
        ),
    ] = None
    amateur: Annotated[
        str | None,
        typer.Option(help="Hub id or folder of the amateur.", rich_help_panel=_MODELS, show_default=False),
    ] = None
    pair: Annotated[
        str | None,
        typer.Option(help="A known pair by name: qwen2.5.", rich_help_panel=_MODELS, show_default=False),
    ] = None
    amateur_layer: Annotated[
        int | None, _number(_MODELS, "The amateur is the expert after this many layers.", least=1)
    ] = None
    amateur_window: Annotated[
        int | None,
        _number(
            _MODELS,
            "The amateur (without one: the expert) sees the last so many tokens only.",
            least=1,
        ),
    ] = None
    dtype: Annotated[
        str, typer.Option(help="auto, float32, bfloat16, float16 or float64.", rich_help_panel=_MODELS)
    ] = "auto"
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.", rich_help_panel=_MODELS)] = "auto"
    allow_pickle: Annotated[
        bool,
        typer.Option("--allow-pickle", help="Read weights from pickle files too.", rich_help_panel=_MODELS),
    ] = False
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run code that comes with a checkpoint.", rich_help_panel=_MODELS
        ),
    ] = False


@dataclass(frozen=True)
class MethodOptions:
    """Changes to a method's parts; each overrides the preset's own value. None: not given."""

    alpha: Annotated[
        float | None, _number(_METHOD, "Contrast among tokens of at least α times the best probability.")
    ] = None
    beta: Annotated[float | None, _number(_METHOD, "Contrast as (1+β)·expert − β·amateur.")] = None
    amateur_temperature: Annotated[
        float | None,
        _number(_METHOD, "Soften or sharpen the amateur.", "--amateur-temperature", "--tau-amateur"),
    ] = None
    candidates: Annotated[
        int | None, _number(_METHOD, "Contrast among the expert's k best tokens at most.")
    ] = None
    temperature: Annotated[
        float | None, _number(_SAMPLING, "Divides the scores before sampling; 0 is greedy.", least=0)
    ] = None
    top_k: Annotated[int | None, _number(_SAMPLING, "Keep the k best tokens.")] = None
    top_p: Annotated[float | None, _number(_SAMPLING, "Keep the smallest set of this mass.")] = None
    min_p: Annotated[float | None, _number(_SAMPLING, "Keep tokens of this share of the best.")] = None
    typical_p: Annotated[float | None, _number(_SAMPLING, "Keep the typical tokens of this mass.")] = None
    epsilon: Annotated[float | None, _number(_SAMPLING, "Keep tokens above this probability.")] = None
    eta: Annotated[float | None, _number(_SAMPLING, "The same, lower where entropy is high.")] = None
    top_n_sigma: Annotated[
        float | None, _number(_SAMPLING, "Keep scores within n standard deviations of the best.")
    ] = None
    repetition_penalty: Annotated[
        float | None, _number(_PENALTIES, "Divides scores of tokens seen before.")
    ] = None
    presence_penalty: Annotated[
        float | None, _number(_PENALTIES, "Subtracted once from tokens generated before.")
    ] = None
    frequency_penalty: Annotated[
        float | None, _number(_PENALTIES, "Subtracted each time a token was generated.")
    ] = None
    no_repeat_ngram: Annotated[int | None, _number(_PENALTIES, "Never repeat n tokens in a row.")] = None
    min_new_tokens: Annotated[int | None, _number(_PENALTIES, "No end of sequence before this many.")] = None

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by name."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))
        return {name: value for name, value in values if value is not None}


@dataclass(frozen=True)
class RunOptions:
    """How long and how randomly to decode, and how prompts become tokens."""

    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens", "--max-tokens", help="The most new tokens.", rich_help_panel=_RUN, min=0
        ),
    ] = 256
    stop: Annotated[
        list[str] | None,
        typer.Option(help="End at this text; may be repeated.", rich_help_panel=_RUN, show_default=False),
    ] = None
    ignore_eos: Annotated[
        bool,
        typer.Option("--ignore-eos", help="Go on after the end of sequence.", rich_help_panel=_RUN),
    ] = False
    seed: Annotated[int | None, _number(_RUN, "Makes sampling repeatable; random without it.", least=0)] = (
        None
    )
    system: Annotated[
        str | None,
        typer.Option(help="System prompt of the chat template.", rich_help_panel=_RUN, show_default=False),
    ] = None
    no_chat_template: Annotated[
        bool,
        typer.Option(
            "--no-chat-template",
            help="Send the prompt as plain text, even where the tokenizer has a chat template.",
            rich_help_panel=_RUN,
        ),
    ] = False


MethodName = Annotated[
    str | None, typer.Option("--method", help="A preset; `descant methods` lists them.", show_default=False)
]
Json = Annotated[
    bool, typer.Option("--json", help="Print JSON, one object a line.", rich_help_panel="Output")
]


def flag(name: str) -> str:
    """Spell an option as on the command line."""
    return "--" + name.replace("_", "-")


def expand(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command one parameter for each field of the option groups among its own parameters."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _fields(groups[name])
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))

    def flatten(**values: Any) -> int:
        for name, group in groups.items():
            values[name] = group(
                **{field.name: values.pop(field.name) for field in dataclasses.fields(group)}
            )
        return command(**values)

    flat: Any = flatten
    flat.__name__, flat.__doc__ = command.__name__, command.__doc__
    flat.__signature__ = inspect.Signature(parameters)
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return cast(Callable[..., int], flat)


def _fields(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in dataclasses.fields(group)
    ]
