"""Tool calls in answers: parsed from any pieces, bound by their grammar, rendered for plain templates."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.errors import InvalidRequestError, InvalidSchemaError, InvalidToolSchemaError
from inference.model.sources import resolve_model
from inference.protocol import Function, Generate, JsonSchema, Message, Regex, Sampling, ToolCall, Tools
from inference.tool_calls import HERMES, LLAMA, CallParser, CallSyntax, as_plain_chat
from tests.fixtures_engine import run_all
from tests.support.calls import TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from inference.engine import Engine

CACHE = Path(os.environ.get("LORALEDGER_MODEL_CACHE", ".loraledger/cache/models"))
ARGUMENTS = st.dictionaries(
    st.text(max_size=4),
    st.recursive(st.text(max_size=5) | st.integers(), st.lists),
    max_size=3,
)
CALLS = st.lists(
    st.builds(ToolCall, st.from_regex("[a-zA-Z0-9_-]{1,9}", fullmatch=True), ARGUMENTS.map(json.dumps))
)


def parse(syntax: CallSyntax, pieces: list[str]) -> tuple[str, list[ToolCall], bool]:
    parser, content, calls = CallParser(syntax), "", list[tuple[str, str]]()
    for piece in pieces:
        text, deltas = parser.push(piece)
        content += text
        for delta in deltas:
            if delta.name is not None:
                assert delta.index == len(calls)
                calls.append((delta.name, ""))
            name, arguments = calls[delta.index]
            calls[delta.index] = (name, arguments + delta.arguments)
    return content + parser.flush(), [ToolCall(*call) for call in calls], parser.is_complete


def cut(text: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@settings(max_examples=30)
@given(text=st.text("<tool_c>\n a{", max_size=30), calls=CALLS, data=st.data())
def test_text_and_calls_are_found_in_any_pieces(
    text: str, calls: list[ToolCall], data: st.DataObject
) -> None:
    written = text + "\n".join(HERMES.render(call) for call in calls)
    expected = text.rstrip() if calls else text
    assert parse(HERMES, cut(written, data)) == (expected, calls, bool(calls))


@settings(max_examples=30)
@given(call=CALLS.filter(bool).map(lambda calls: calls[0]), data=st.data())
def test_a_call_of_llama_is_the_whole_answer(call: ToolCall, data: st.DataObject) -> None:
    assert parse(LLAMA, cut(LLAMA.render(call), data)) == ("", [call], True)
    text = f" {LLAMA.render(call)}"
    assert parse(LLAMA, cut(text, data)) == (text, [], False)


@pytest.mark.parametrize(
    ("written", "content", "arguments"),
    [
        ("Hi <tool_ca", "Hi <tool_ca", None),
        ("Hi\n<tool_call>", "Hi", None),
        ('<tool_call>\n{"name": "f", "argu', "", None),
        ('<tool_call>\n{"name": "f", "arguments": {"a": "}', "", '{"a": "}'),
        ('<tool_call>\n{"name": "f", "arguments": {}}\n</tool_', "", "{}"),
    ],
)
def test_an_answer_that_was_cut_off_is_incomplete(written: str, content: str, arguments: str | None) -> None:
    calls = [] if arguments is None else [ToolCall("f", arguments)]
    assert parse(HERMES, list(written)) == (content, calls, False)


def test_a_template_without_tools_gets_them_as_text() -> None:
    call = ToolCall("warm", '{"unit": "C"}')
    chat = (
        Message("system", "Be brief."),
        Message("user", "Hot?"),
        Message("assistant", "I look.", (call, call)),
        Message("tool", "20", name="warm"),
        Message("tool", "21", name="warm"),
        Message("user", "And?"),
    )
    system, question, calls, results, last = as_plain_chat(chat, TOOLS)
    assert system.content.startswith("Be brief.\n\nYou may call one or more functions")
    assert '{"type": "function", "function": {"name": "warm", "description": "How warm."' in system.content
    assert calls == Message("assistant", f"I look.\n{HERMES.render(call)}\n{HERMES.render(call)}")
    assert results.role == "user"
    assert results.content == "<tool_response>\n20\n</tool_response>\n<tool_response>\n21\n</tool_response>"
    assert (question, last) == (chat[1], chat[5])
    assert as_plain_chat(chat[1:2], None) == [chat[1]]
    assert as_plain_chat(chat[1:2], TOOLS)[0].role == "system"


def answer(engine: Engine, tools: Tools, *, seed: int = 1, max_tokens: int = 300, **options: Any) -> Any:
    sampling = Sampling(max_tokens=max_tokens, seed=seed, **options)
    command = Generate("r", (Message("user", "hi"),), sampling=sampling, tools=tools)
    # A byte is a token here: the rendered prompt would fill the context.
    return run_all(engine, command, prompts={"r": engine.tokenizer.encode_prompt((), "x")})["r"]


def with_tools(**changes: Any) -> Tools:
    return Tools(TOOLS.functions, **changes)


def test_a_random_model_makes_the_calls_that_are_required(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    names = set()
    for seed in range(4):
        single = answer(engine, with_tools(is_required=True, is_parallel=False), seed=seed)
        _, (call,), is_complete = parse(HERMES, [single.text])
        assert is_complete
        assert single.last.finish_reason == "tool_calls"
        names.add(call.name)
    assert names == {"warm", "date"}
    named = answer(engine, with_tools(is_required=True, only="date"), max_tokens=200)
    calls = parse(HERMES, [named.text])[1]
    assert {call.name for call in calls} == {"date"}
    assert all(1 <= json.loads(call.arguments)["day"] <= 31 for call in calls[:-1])


def test_a_random_model_may_write_text_and_then_only_a_whole_call(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    text = answer(engine, TOOLS, max_tokens=20)
    assert (text.last.finish_reason, parse(HERMES, [text.text])[1]) == ("length", [])
    (less,) = engine.tokenizer.encode_prompt((), "<")
    called = answer(engine, TOOLS, logit_bias={less: 30.0})
    assert called.text.startswith("<")
    assert "<tool_call>" not in called.text or parse(HERMES, [called.text])[1]


def test_a_schema_binds_the_text_beside_calls(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    (less,) = engine.tokenizer.encode_prompt((), "<")
    text = answer(engine, TOOLS, constraint=JsonSchema('{"enum": ["a", "b"]}'), logit_bias={less: -100.0})
    assert text.text in {'"a"', '"b"'}
    call = answer(
        engine,
        with_tools(is_parallel=False),
        constraint=JsonSchema('{"enum": ["a", "b"]}'),
        logit_bias={less: 100.0},
    )
    assert call.last.finish_reason == "tool_calls"


def test_a_marker_in_text_of_a_schema_is_text(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    (quote,) = engine.tokenizer.encode_prompt((), '"')
    schema = JsonSchema('{"const": "<tool_call> is text"}')
    text = answer(engine, TOOLS, constraint=schema, logit_bias={quote: 100.0})
    assert (text.text, text.last.finish_reason) == ('"<tool_call> is text"', "stop")


def test_a_schema_of_the_text_excludes_calls_without_a_marker(
    make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine()
    monkeypatch.setattr(engine.tokenizer, "call_syntax", LLAMA)
    schema = JsonSchema('{"type": "object"}')
    with pytest.raises(InvalidRequestError, match="either tools or a schema"):
        answer(engine, TOOLS, constraint=schema)
    called = answer(engine, with_tools(is_required=True), constraint=schema)
    assert called.last.finish_reason == "tool_calls"
    assert parse(LLAMA, [called.text])[2]


def test_chunks_have_the_content_and_the_calls(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    sampling = Sampling(max_tokens=300, seed=2)
    tools = with_tools(is_required=True, is_parallel=False)
    command = Generate("r", (Message("user", "hi"),), sampling=sampling, tools=tools)
    engine.add(command, engine.tokenizer.encode_prompt((), "x"))
    chunks: list[Any] = list(engine.run())
    text = "".join(chunk.text for chunk in chunks)
    pieces = [piece for chunk in chunks for piece in chunk.calls]
    call = ToolCall(pieces[0].name, "".join(piece.arguments for piece in pieces))
    assert HERMES.render(call) == text
    assert {chunk.content for chunk in chunks} == {""}


def test_a_schema_that_cannot_be_bound_is_named_with_its_function(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    bad = Function("bad", '{"type": "object", "properties": {"a": {"uniqueItems": true}}}')
    for function, where, reason in (
        (bad, "bad#/properties/a", "uniqueItems"),
        (Function("torn", "{"), "torn#", "not JSON"),
    ):
        with pytest.raises(InvalidToolSchemaError, match=reason) as refused:
            answer(engine, Tools((*TOOLS.functions, function)))
        assert refused.value.where == where
    for schema, where in (('{"properties": {"a": {"not": {}}}}', "#/properties/a"), ('{"not": {}}', "#")):
        with pytest.raises(InvalidSchemaError, match="not") as of_text:
            answer(engine, TOOLS, constraint=JsonSchema(schema))
        assert (of_text.value.code, of_text.value.where) == ("invalid_schema", where)


@pytest.mark.deep
def test_the_bundled_model_calls_a_function(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine(resolve_model("", CACHE), kv_budget_bytes=64 * 2**20)
    question = (Message("user", "How warm is it, in degrees Celsius?"),)
    sampling = Sampling(max_tokens=60, temperature=0.0)
    tools = with_tools(is_required=True, only="warm", is_parallel=False)
    for each in (tools, TOOLS):
        found = run_all(engine, Generate("r", question, sampling=sampling, tools=each))["r"]
        _, calls, is_complete = parse(HERMES, [found.text])
        assert all(json.loads(call.arguments).keys() == {"unit"} for call in calls)
        assert is_complete or each is TOOLS


@pytest.mark.parametrize("changes", [{"only": "no"}, {"functions": TOOLS.functions * 2}])
def test_functions_are_named_once(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="once"):
        Tools(**{"functions": TOOLS.functions} | changes)


@pytest.mark.parametrize("options", [{"min_tokens": 1}, {"ignore_eos": True}, {"constraint": Regex("a")}])
def test_options_that_contradict_tools_are_refused(
    options: dict[str, Any], make_engine: Callable[..., Engine]
) -> None:
    with pytest.raises(InvalidRequestError, match="tools"):
        answer(make_engine(), TOOLS, **options)
