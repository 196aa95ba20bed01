"""The options that several commands share, each named and explained once.

A command declares groups (`models: ModelOptions`) and `expand` gives it one option for each of their fields.
"""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer

_MODELS = "Models"
_OF_PARTS = json.loads(files("descant.cli").joinpath("options.json").read_text("utf-8"))
"""What methods' parts declare, as `descant.cli.collect` has listed it."""

_SPECULATION = next(entry["heading"] for entry in _OF_PARTS if entry["name"] == "draft_tokens")
_EXITS = "Confident exit: faster, and other text; each token skips the layers of the expert that it does not need"
RUN = "Run"
OUTPUT = "Output"
_ALIASES = {"amateur_temperature": ("--tau-amateur",)}
PROMPTS = 'Prompts from a file, one a line; from .jsonl its strings, or the "prompt" or "text" of its objects.'


def flag(name: str) -> str:
    """Spell an option as on the command line."""
    return "--" + name.replace("_", "-")


def option(panel: str, text: str, *names: str, of: str | None = None, least: int | None = None) -> Any:
    """Return the option of a parameter.

    Parameters
    ----------
    panel
        Under which heading of the help it stands.
    text
        Its explanation, the default included.
    names
        Its spellings, where they differ from the parameter's.
    of
        What stands for its value in the help.
    least
        The least value allowed.
    """
    return typer.Option(*names, help=text, metavar=of, rich_help_panel=panel, min=least, show_default=False)


@dataclass(frozen=True)
class ModelOptions:
    """Which models decode, and how they are loaded."""

    expert: Annotated[
        str | None, option(_MODELS, "Hub id or folder of the expert; without it the bundled pair.", of="NAME")
    ] = None
    amateur: Annotated[str | None, option(_MODELS, "Hub id or folder of the amateur.", of="NAME")] = None
    pair: Annotated[str | None, option(_MODELS, "A pair of the hub by name: qwen2.5.", of="NAME")] = None
    amateur_layer: Annotated[
        int | None, option(_MODELS, "The amateur is the expert after N layers.", of="N", least=1)
    ] = None
    amateur_window: Annotated[
        int | None,
        option(_MODELS, "The amateur (or else the expert) sees the last N tokens only.", of="N", least=1),
    ] = None
    bridge_tokenizers: Annotated[
        bool,
        option(
            _MODELS,
            "Compare tokens by their bytes where the amateur has another tokenizer: several passes of it a step.",
            "--bridge-tokenizers",
        ),
    ] = False
    amateur_prompt: Annotated[
        str | None,
        option(_MODELS, "The amateur is the expert (or --amateur) reading this prompt instead.", of="TEXT"),
    ] = None
    source: Annotated[
        list[str] | None,
        option(_MODELS, "A further model that the method reads, such as tuned=NAME; repeat it.", of="ROLE=NAME"),
    ] = None
    dtype: Annotated[
        str,
        option(
            _MODELS, "float32, bfloat16, …; auto: the checkpoint's, or float32 if the CPU is slow in that.", of="NAME"
        ),
    ] = "auto"
    device: Annotated[str, option(_MODELS, "cuda, mps or cpu; auto: the first there is.", of="NAME")] = "auto"
    runner: Annotated[
        str,
        option(
            _MODELS,
            "eager; compiled: each shape when it is first met; auto: if that was done before; graph: of CUDA.",
            of="NAME",
        ),
    ] = "auto"
    quantization: Annotated[
        str | None, option(_MODELS, "Round the expert's weights on a CPU: int8 or int4.", of="NAME")
    ] = None
    amateur_quantization: Annotated[str | None, option(_MODELS, "Round the amateur's weights likewise.", of="NAME")] = (
        None
    )
    allow_pickle: Annotated[
        bool, option(_MODELS, "Read weights from pickle files, which can run code.", "--allow-pickle")
    ] = False
    trust_remote_code: Annotated[
        bool, option(_MODELS, "Run code that comes with a checkpoint.", "--trust-remote-code")
    ] = False


class _Given:
    """Options of which those count that were given; the others are None."""

    def given(self) -> dict[str, Any]:
        """Return the options that were given, by name."""
        values = ((field.name, getattr(self, field.name)) for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return {name: value for name, value in values if value is not None}


@dataclass(frozen=True)
class _Drafts(_Given):
    draft_model: Annotated[
        str | None, option(_SPECULATION, "Hub id or folder of the model that drafts.", of="NAME")
    ] = None
    draft_layer: Annotated[int | None, option(_SPECULATION, "The expert's first N layers draft.", of="N", least=1)] = (
        None
    )
    draft_lookup: Annotated[
        int | None,
        option(_SPECULATION, "Draft what followed the last N tokens before; no model.", of="N", least=1),
    ] = None


def _of_parts(name: str, doc: str, *, drafting: bool, bases: tuple[type, ...]) -> Any:
    """Return a group of the options that methods' parts declare: those of drafting, or all others."""
    fields = []
    for entry in _OF_PARTS:
        if (entry["heading"] == _SPECULATION) == drafting:
            names = (flag(entry["name"]), *_ALIASES.get(entry["name"], ()))
            made = option(entry["heading"], entry["text"], *names, of=entry["of"])
            kind = {"N": int, "X": float}.get(entry["of"], str)
            fields.append((entry["name"], Annotated[kind | None, made], dataclasses.field(default=None)))
    return dataclasses.make_dataclass(name, fields, bases=bases, frozen=True, namespace={"__doc__": doc})


if TYPE_CHECKING:

    class MethodOptions(_Given):
        """Changes to a method's parts."""

    class DraftOptions(_Drafts):
        """What drafts."""

else:
    MethodOptions = _of_parts(
        "MethodOptions",
        "Changes to a method's parts; each overrides the preset's own value. None: not given.",
        drafting=False,
        bases=(_Given,),
    )
    DraftOptions = _of_parts(
        "DraftOptions",
        "What drafts tokens for the expert to verify, and how many. None: not given.",
        drafting=True,
        bases=(_Drafts,),
    )


@dataclass(frozen=True)
class ExitOptions(_Given):
    """When tokens leave the expert's layers early. None: not given."""

    exit_threshold: Annotated[
        float | None, option(_EXITS, "Leave where the confidence exceeds X, from 0 to 1 (never).", of="X")
    ] = None
    exit_measure: Annotated[
        str | None, option(_EXITS, "The confidence: softmax, the default, or state.", of="NAME")
    ] = None
    exit_layer: Annotated[
        list[int] | None, option(_EXITS, "After N layers; repeat it. Without it after any.", of="N", least=1)
    ] = None


@dataclass(frozen=True)
class RunOptions:
    """How long and how randomly to decode, and how prompts become tokens."""

    max_new_tokens: Annotated[
        int, option(RUN, "The most new tokens; 256.", "--max-new-tokens", "--max-tokens", of="N", least=0)
    ] = 256
    stop: Annotated[list[str] | None, option(RUN, "End at this text; may be repeated.", of="TEXT")] = None
    ignore_eos: Annotated[bool, option(RUN, "Go on after the end of sequence.", "--ignore-eos")] = False
    seed: Annotated[int | None, option(RUN, "Makes sampling repeatable; without it one is drawn.", of="N", least=0)] = (
        None
    )
    system: Annotated[str | None, option(RUN, "System prompt of the chat template.", of="TEXT")] = None
    no_chat_template: Annotated[
        bool,
        option(RUN, "Send prompts as plain text in spite of a chat template.", "--no-chat-template"),
    ] = False


MethodName = Annotated[
    str | None,
    option("Options", "A preset (see `descant methods`), whose values options override.", "--method", of="NAME"),
]
Json = Annotated[bool, option(OUTPUT, "Print JSON, one object a line.", "--json")]


def expand(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command one parameter for each field of the option groups among its own parameters."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters += _fields(groups[name])
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    def flatten(**values: Any) -> int:
        for name, group in groups.items():
            fields = dataclasses.fields(group)
            values[name] = group(**{field.name: values.pop(field.name) for field in fields})
        return command(**values)

    flat: Any = flatten
    flat.__name__, flat.__doc__ = command.__name__, command.__doc__
    flat.__signature__ = inspect.Signature(parameters)
    return cast(Callable[..., int], flat)


@functools.cache
def _fields(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(field.name, kind, default=field.default, annotation=hints[field.name])
        for field in dataclasses.fields(group)
    ]
