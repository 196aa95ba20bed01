"""Chats to text, through a tokenizer's chat template."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase

from descant.errors import PromptError, SettingsError

Message = Mapping[str, Any]
"""One turn of a chat: `{"role": "user", "content": "…"}`; a content may be parts, `[{"type": "text", "text": …}]`."""

_REFUSALS = (TemplateError, ValueError, TypeError, KeyError)
"""What a template, or transformers in its name, raises for messages that it does not take."""

_PROBE = "descant probes the template"


def write_chat(tokenizer: PreTrainedTokenizerBase, prompt: str | Sequence[Message], system: str | None) -> str:
    """Write a chat up to where the assistant goes on: in its last turn, if that is the chat's, else in a new one.

    Parameters
    ----------
    tokenizer
        Has the template.
    prompt
        The messages, or the user's only one.
    system
        A system message before them.

    Raises
    ------
    PromptError
        The messages are malformed, or the template cannot express them.
    SettingsError
        `system` was given beside a system message.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError("this tokenizer has no chat template: set chat=False to send the prompt as plain text")
    messages = _fit_parts(tokenizer, _messages(prompt, system))
    try:
        text = _render(tokenizer, messages)
        ignored = bool(system and system.strip()) and text == _render(tokenizer, messages[1:])
    except _REFUSALS as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if system is not None and _renders(tokenizer, messages[1:]):
            raise PromptError(
                f"the chat template takes no system message ({reason}): put it at the head of the prompt"
            ) from error
        raise PromptError(
            f"the chat template refuses these messages ({reason}): change them, or set chat=False"
        ) from error
    if ignored:
        raise PromptError("the chat template ignores the system message: put that text at the head of the prompt")
    return text


def _messages(prompt: str | Sequence[Message], system: str | None) -> list[dict[str, Any]]:
    """Write a prompt as the messages of a chat."""
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    # Templates take what is missing and print what is None.
    messages = [{key: value for key, value in message.items() if value is not None} for message in prompt]
    if not messages or not all("role" in message and ("content" in message or _calls(message)) for message in messages):
        raise PromptError(
            'a chat needs at least one message, each with a "role" and a "content", or "tool_calls" of the assistant'
        )
    for place, message in enumerate(messages):
        _check_parts(place, message)
    if _calls(messages[-1]) and not messages[-1].get("content"):
        raise PromptError(
            "the chat ends with the assistant's tool calls: add the tools' answers, or leave that turn out"
        )
    if system is None:
        return messages
    if messages[0]["role"] == "system":
        raise SettingsError("the messages begin with a system message already: leave system out, or that message")
    return [{"role": "system", "content": system}, *messages]


def _calls(message: Message) -> bool:
    return message["role"] == "assistant" and bool(message.get("tool_calls"))


def _in_parts(message: Message) -> bool:
    return isinstance(message.get("content"), (list, tuple))


def _check_parts(place: int, message: Message) -> None:
    """Refuse parts of a content that are no text."""
    for part in message["content"] if _in_parts(message) else ():
        if not isinstance(part, Mapping):
            raise PromptError(f'message {place} has a part that is no mapping: write {{"type": "text", "text": "…"}}')
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise PromptError(f"message {place} has a part of type {part.get('type')!r}: give parts of text alone")


def _fit_parts(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Join the parts of a content to one text, wherever the template takes no parts of that role.

    Nothing is put between them, as templates put nothing that take parts.
    """
    joined = [
        {**message, "content": "".join(part["text"] for part in message["content"])} if _in_parts(message) else message
        for message in messages
    ]
    taken: dict[str, bool] = {}
    for place, message in enumerate(messages):
        if _in_parts(message) and message["role"] not in taken:
            taken[message["role"]] = _takes_parts(tokenizer, joined, place)
    return [message if taken.get(message["role"]) else text for message, text in zip(messages, joined, strict=True)]


def _takes_parts(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], place: int) -> bool:
    """Try whether the template writes a message in parts as it writes its text, or takes nothing but parts."""

    def written(content: Any) -> str:
        chat = [*messages[:place], {**messages[place], "content": content}, *messages[place + 1 :]]
        try:
            return str(tokenizer.apply_chat_template(chat, tokenize=False))
        except _REFUSALS:
            return ""

    text, parts = written(_PROBE), written([{"type": "text", "text": _PROBE}])
    return _PROBE in parts and (parts == text or _PROBE not in text)


def _render(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> str:
    """Write messages as text: an assistant's turn at the end is left open, and else one is opened."""
    goes_on = messages[-1]["role"] == "assistant"
    return str(
        tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=not goes_on, continue_final_message=goes_on
        )
    )


def _renders(tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]]) -> bool:
    """Say whether the chat template takes these messages."""
    try:
        _render(tokenizer, messages)
    except _REFUSALS:
        return False
    return True
