"""Chat templates with tools, reduced to what they say of tools; those of Qwen and Llama are followed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inference.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    UnsupportedReasoningError,
)
from inference.protocol import Function, Message, ToolCall, Tools
from inference.tokenization.tokenizer import MAX_CHARS_PER_TOKEN, ChatTokenizer
from inference.tool_calls import HERMES, LLAMA
from tests.fixtures_engine import CHAT_TEMPLATE, make_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

QWEN = """
{%- if tools %}<|system|># Tools
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|end|>{% endif %}
{%- for message in messages %}
{%- if message.role == "tool" %}<|user|><tool_response>
{{ message.content }}
</tool_response><|end|>
{%- else %}<|{{ message.role }}|>{{ message.content }}
{%- for tool_call in message.tool_calls or [] %}
{%- if tool_call.function %}{% set tool_call = tool_call.function %}{% endif %}
<tool_call>
{"name": "{{ tool_call.name }}", "arguments": {{ tool_call.arguments | tojson }}}
</tool_call>
{%- endfor %}<|end|>
{%- endif %}
{%- endfor %}<|assistant|>"""
LLAMA_3 = """
{%- set question = messages[0]['content'] | trim %}{% set messages = messages[1:] -%}
<|user|>{% for t in tools or [] %}{{ t | tojson(indent=4) }}{% endfor %}{{ question }}<|end|>
{%- for message in messages %}
{%- if 'tool_calls' in message %}
{%- if message.tool_calls | length != 1 %}{{ raise_exception("only single tool-calls at once!") }}{% endif %}
{%- set tool_call = message.tool_calls[0].function -%}
<|assistant|>{"name": "{{ tool_call.name }}", "parameters": {{ tool_call.arguments | tojson }}}<|end|>
{%- elif message.role == "tool" %}<|user|>{{ message.content | tojson }}<|end|>
{%- else %}<|{{ message.role }}|>{{ message.content }}<|end|>
{%- endif %}
{%- endfor %}<|assistant|>"""
OTHER = QWEN.replace("<tool_call>\n", "<function>").replace("\n</tool_call>", "</function>")
WITHOUT_RESULTS = QWEN.replace("{{ message.content }}\n</tool_response>", "</tool_response>")

TOOLS = Tools((Function("warm", '{"type": "object"}', "How wärm."),))
CALL = ToolCall("warm", '{"unit":"C"}')
CHAT = (
    Message("user", "Hot?"),
    Message("assistant", "", (CALL,)),
    Message("tool", "20", name="warm"),
)


def tokenizer(folder: Path, template: str) -> ChatTokenizer:
    make_tokenizer(folder)
    (folder / "chat_template.jinja").write_text(template)
    return ChatTokenizer(folder)


def rendered(made: ChatTokenizer, chat: tuple[Message, ...], tools: Tools | None = TOOLS) -> str:
    return made.decode(made.encode_prompt(chat, None, tools))


def test_a_template_of_qwen_renders_tools_calls_and_results(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, QWEN)
    assert made.call_syntax == HERMES
    text = rendered(made, CHAT)
    assert "# Tools" in text
    assert '"description": "How wärm."' in text
    assert HERMES.render(ToolCall("warm", '{"unit": "C"}')) in text
    assert "<tool_response>\n20\n</tool_response>" in text


def test_a_template_of_llama_has_one_call_of_its_own_syntax(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, LLAMA_3)
    assert made.call_syntax == LLAMA
    assert LLAMA.render(ToolCall("warm", '{"unit": "C"}')) in rendered(made, CHAT)
    with pytest.raises(InvalidRequestError, match="single tool-calls"):
        rendered(made, (CHAT[0], Message("assistant", "", (CALL, CALL))))


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, OTHER, WITHOUT_RESULTS])
def test_any_other_template_gets_tools_as_text(tmp_path: Path, template: str) -> None:
    made = tokenizer(tmp_path, template)
    assert made.call_syntax == HERMES
    text = rendered(made, CHAT)
    assert "You may call one or more functions" in text
    assert HERMES.render(CALL) in text
    assert "<tool_response>\n20\n</tool_response>" in text
    assert HERMES.render(CALL) in rendered(made, CHAT, None)


@pytest.mark.parametrize("tools", [None, TOOLS])
def test_a_template_that_renders_names_gets_those_of_all_authors(tmp_path: Path, tools: Tools | None) -> None:
    named = CHAT_TEMPLATE.replace("{{ message['content'] }}", "{{ message.name }}: {{ message.content }}")
    made = tokenizer(tmp_path, named)
    chat = (Message("system", "Be brief.", name="boss"), Message("user", "Hot?", name="Ada"))
    text = rendered(made, chat, tools)
    assert "boss: Be brief." in text
    assert "Ada: Hot?" in text


def test_without_tools_a_prompt_is_as_before(tmp_path: Path) -> None:
    made = tokenizer(tmp_path, CHAT_TEMPLATE)
    by_hand = made.encode_prompt((), "<|user|>Hot?<|end|><|assistant|>")
    assert made.encode_prompt(CHAT[:1], None) == by_hand


def test_a_reasoning_effort_goes_to_templates_that_have_it(tmp_path: Path) -> None:
    ask = CHAT[:1]
    with_effort = tokenizer(tmp_path / "effort", CHAT_TEMPLATE + "{{ reasoning_effort }}")
    assert with_effort.decode(with_effort.encode_prompt(ask, None, None, "high")).endswith("high")
    with_switch = tokenizer(tmp_path / "switch", CHAT_TEMPLATE + "{{ enable_thinking }}")
    for effort, is_thinking in (("none", "False"), ("minimal", "False"), ("low", "True")):
        assert with_switch.decode(with_switch.encode_prompt(ask, None, None, effort)).endswith(is_thinking)  # type: ignore[arg-type]
    without = tokenizer(tmp_path / "without", CHAT_TEMPLATE)
    assert without.encode_prompt(ask, None, None, "none") == without.encode_prompt(ask, None)
    with pytest.raises(UnsupportedReasoningError, match="omit it"):
        without.encode_prompt(ask, None, None, "low")
    with pytest.raises(InvalidRequestError, match="need messages"):
        without.encode_prompt((), "x", TOOLS)


@pytest.mark.parametrize("is_chat", [False, True])
def test_a_text_that_is_far_too_long_is_refused_before_it_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_chat: bool
) -> None:
    """Thousands of calls are short, but the template makes megabytes of them."""
    known = tokenizer(tmp_path, QWEN)
    calls = (CALL,) * (10 * MAX_CHARS_PER_TOKEN)
    chat = (Message("user", "Hot?"), Message("assistant", "", calls)) if is_chat else ()
    prompt = None if is_chat else "x" * (10 * MAX_CHARS_PER_TOKEN + 1)
    assert known.encode_prompt(chat, prompt)
    monkeypatch.setattr(known, "_encode", None)
    with pytest.raises(ContextLengthExceededError, match="the context holds 10"):
        known.encode_prompt(chat, prompt, max_context=10)
