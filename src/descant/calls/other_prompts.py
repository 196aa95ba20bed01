"""What each row's other sources read in place of its prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from descant.calls.prompts import Prompts, as_list, check_rows, encode_prompt
from descant.checks import shown
from descant.errors import PromptError, SettingsError
from descant.sources import OtherPrompt
from descant.sources.other_prompt import Replacement

OtherPrompts = list[dict[str, Replacement]]
"""For each row of a call, what sources by name read in place of its prompt."""


def encode_other_prompts(
    settings: Mapping[str, tuple[OtherPrompt, int | None]],
    tokenizer: PreTrainedTokenizerBase | None,
    prompts: Prompts,
    rows: Sequence[Sequence[int]],
    amateur_prompts: Prompts | None,
    *,
    chat: bool,
    system: str | None,
    width: int,
    room: int,
) -> OtherPrompts:
    """Return what is read instead, row by row.

    Parameters
    ----------
    settings
        The sources that read another prompt, by name, and the most tokens their rows may hold.
    tokenizer
        The expert's.
    prompts, rows
        The call's prompts as they were given, and their token ids.
    amateur_prompts
        The amateur's, if the call gives them.
    chat, system
        How texts are encoded.
    width
        Size of the vocabulary.
    room
        How many tokens must stay free.

    Raises
    ------
    SettingsError
        If a source lacks its prompts, or `amateur_prompts` would be ignored.
    PromptError
        If there are not as many as prompts, or one is unusable.
    """
    amateur = settings.get("amateur", (None, None))[0]
    if amateur_prompts is not None and (amateur is None or amateur.prompt is not None):
        cause = (
            "no amateur that the scoring reads is an OtherPrompt()" if amateur is None else f"{shown(amateur)} has one"
        )
        raise SettingsError(f"amateur_prompts would have no effect: {cause}; leave them out")
    listed = as_list(prompts)
    replaced: OtherPrompts = [{} for _ in rows]
    for name, (setting, context) in settings.items():
        others = _others(name, setting, listed, amateur_prompts)
        if len(others) != len(rows):
            raise PromptError(f"{len(rows)} prompts and {len(others)} amateur_prompts; give as many of each")
        encoded = [
            encode_prompt(tokenizer, other, chat=chat and not _is_row(other), system=None if _is_row(other) else system)
            for other in others
        ]
        check_rows(encoded, width=width, context=context, room=room)
        for entry, row, tokens in zip(replaced, rows, encoded, strict=True):
            entry[name] = Replacement(len(row), tokens)
    return replaced


def bound(context: int | None, replaced: Mapping[str, Replacement], contexts: Mapping[str, int | None]) -> int | None:
    """Return the most tokens a row may hold, so that what its sources read in its stead fits their contexts too."""
    bounds = [context]
    for name, other in replaced.items():
        most = contexts[name]
        bounds.append(None if most is None else most - len(other.tokens) + other.prompt_length)
    return min((most for most in bounds if most is not None), default=None)


def _others(name: str, setting: OtherPrompt, prompts: Sequence[Any], amateur_prompts: Prompts | None) -> list[Any]:
    """Return a source's prompts, one a row, not yet encoded."""
    if setting.prompt is None:
        if amateur_prompts is None or name != "amateur":
            remedy = "amateur_prompts=[…], one a prompt, or " if name == "amateur" else ""
            raise SettingsError(f"the {name} reads another prompt; give {remedy}OtherPrompt(prompt)")
        return list(as_list(amateur_prompts))
    if callable(setting.prompt):
        return [setting.prompt(prompt) for prompt in prompts]
    return [setting.prompt] * len(prompts)


def _is_row(prompt: Any) -> bool:
    """Tell token ids from texts and chats."""
    return (
        isinstance(prompt, Sequence) and not isinstance(prompt, str) and all(isinstance(part, int) for part in prompt)
    )
