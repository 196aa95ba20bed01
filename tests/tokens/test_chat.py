"""Chats: turns that are continued, contents in parts, tool calls; `apply_chat_template` is the oracle."""

from typing import Any

import pytest

from checkpoints import CHAT_TEMPLATE, qwen_tokenizer
from descant.errors import PromptError
from descant.tokens import encode

TURN = "{{ '<|im_start|>' + message['role'] + '\n' }}"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
EACH_PART = (
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}"
)
EITHER = "{% if message['content'] is string %}{{ message['content'] }}{% else %}" + EACH_PART + "{% endif %}"


def template(content: str, tools: str = "") -> str:
    return "{% for message in messages %}" + TURN + content + tools + "<|im_end|>\n{% endfor %}" + OPEN


STRINGS = {
    "adds": CHAT_TEMPLATE,
    "prints": template("{{ message['content'] }}"),
    "trims": template("{{ message['content'] | trim }}"),
    "dumps": template("{{ message['content'] | tojson }}"),
    "splits": template("{{ message['content'].split('</think>')[-1] }}"),
    "leaves out": template("{% if message['content'] is string %}{{ message['content'] }}{% endif %}"),
}
"""Templates that take contents as strings alone, by what they do with them."""

PARTS = {
    "either": template(EITHER),
    "parts": template(EACH_PART),
    "trimmed parts": template(EITHER.replace("part['text']", "part['text'] | trim")),
}

IN_PARTS = [
    {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
    {"role": "user", "content": [{"type": "text", "text": "Hello "}, {"type": "text", "text": " world"}]},
    {"role": "assistant", "content": [{"type": "text", "text": "The"}, {"type": "text", "text": " dog"}]},
    {"role": "user", "content": [{"type": "text", "text": "{'type': 'text'}"}]},
]
IN_TEXT = [{**message, "content": "".join(part["text"] for part in message["content"])} for message in IN_PARTS]

CALLS = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]},
    {"role": "tool", "content": "2"},
]
TOOLS = "{% for call in message.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"


def encoded(chat_template: str, messages: Any, **options: Any) -> list[int]:
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = chat_template
    return encode(tokenizer, messages, chat=True, **options)


def expected(chat_template: str, messages: Any, *, continued: bool = False) -> list[int]:
    tokenizer = qwen_tokenizer()
    turn = {"add_generation_prompt": not continued, "continue_final_message": continued}
    return list(tokenizer.apply_chat_template(messages, chat_template=chat_template, **turn)["input_ids"])


@pytest.mark.parametrize("kind", [*STRINGS, "either"])
def test_an_assistants_turn_at_the_end_is_continued(kind: str) -> None:
    chosen = (STRINGS | PARTS)[kind]
    for content in ("The dog", "The dog ", ""):
        chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": content}]
        ids = encoded(chosen, chat)
        assert ids == expected(chosen, chat, continued=True)
        assert ids != expected(chosen, chat)
        system = [{"role": "system", "content": "Be brief."}]
        assert encoded(chosen, chat, system="Be brief.") == expected(chosen, system + chat, continued=True)
    assert qwen_tokenizer().decode(encoded(CHAT_TEMPLATE, chat[:1] + IN_TEXT[2:3])).endswith("assistant\nThe dog")


@pytest.mark.parametrize("kind", STRINGS)
def test_parts_are_joined_where_a_template_takes_strings(kind: str) -> None:
    for chat, text in ((IN_PARTS, IN_TEXT), (IN_PARTS[:3], IN_TEXT[:3])):
        continued = len(chat) == 3
        assert encoded(STRINGS[kind], chat) == expected(STRINGS[kind], text, continued=continued)
        mixed = [*text[:1], *chat[1:]]
        assert encoded(STRINGS[kind], mixed) == expected(STRINGS[kind], text, continued=continued)


@pytest.mark.parametrize("kind", PARTS)
def test_a_template_that_takes_parts_is_given_them(kind: str) -> None:
    for chat in (IN_PARTS, IN_PARTS[:3]):
        assert encoded(PARTS[kind], chat) == expected(PARTS[kind], chat, continued=len(chat) == 3)


def test_a_template_may_take_parts_of_one_role_alone() -> None:
    system = "{% if message['role'] == 'system' %}{{ message['content'] }}{% else %}" + EACH_PART + "{% endif %}"
    chosen = template(system)
    assert encoded(chosen, IN_PARTS) == expected(chosen, [*IN_TEXT[:1], *IN_PARTS[1:]])


def test_the_chat_that_is_given_is_left_as_it_is() -> None:
    before = repr(IN_PARTS)
    encoded(CHAT_TEMPLATE, IN_PARTS[:3])
    assert repr(IN_PARTS) == before


@pytest.mark.parametrize(
    ("part", "named"),
    [
        ({"type": "image", "url": "a.png"}, "'image'"),
        ({"type": "image_url", "image_url": {"url": "a.png"}}, "'image_url'"),
        ({"type": "text"}, "'text'"),
        ({"text": "a"}, "None"),
        ("a", "no mapping"),
    ],
)
def test_parts_that_are_no_text_are_refused_in_a_line(part: Any, named: str) -> None:
    chat = [{"role": "user", "content": "Hello"}, {"role": "user", "content": [{"type": "text", "text": "a"}, part]}]
    for chosen in (CHAT_TEMPLATE, PARTS["either"]):
        with pytest.raises(PromptError, match=f"^message 1 has a part .*{named}.*: .+$"):
            encoded(chosen, chat)


def test_tool_calls_need_no_content() -> None:
    chosen = template("{{ message['content'] }}", TOOLS)
    expecting = expected(chosen, CALLS)
    for content in ({}, {"content": None}, {"content": ""}):
        chat = [CALLS[0], {**CALLS[1], **content}, CALLS[2]]
        assert encoded(chosen, chat) == expecting
    ids = qwen_tokenizer().decode(expecting)
    assert '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>' in ids
    assert "None" not in ids


def test_a_turn_without_content_is_refused_unless_it_is_tool_calls() -> None:
    empty: list[list[dict[str, Any]]] = [
        [{"role": "assistant"}],
        [{"role": "assistant", "content": None}],
        [{"role": "assistant", "tool_calls": []}],
        [{"role": "user", "tool_calls": CALLS[1]["tool_calls"]}],
        [{"content": "Hello"}],
    ]
    for chat in empty:
        with pytest.raises(PromptError, match="at least one message"):
            encoded(CHAT_TEMPLATE, [*CALLS[:1], *chat])
    for content in ({}, {"content": ""}, {"content": []}):
        with pytest.raises(PromptError, match="ends with the assistant's tool calls: add the tools' answers"):
            encoded(template("", TOOLS), [CALLS[0], {**CALLS[1], **content}])


def test_a_turn_that_a_template_rewrites_cannot_be_continued() -> None:
    upper = template("{{ message['content'] | upper }}")
    chat = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "The dog"}]
    with pytest.raises(PromptError, match=r"^the chat template refuses these messages \(.*\): change them, .*$"):
        encoded(upper, chat)
