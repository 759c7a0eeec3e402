"""The stock client's Responses API: complete, streamed, with tools, and what cannot be kept."""

from __future__ import annotations

import collections
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from pydantic import BaseModel

from backend.domain.hashing import response_bytes, salted_hash, to_bytes
from backend.domain.money import AMOUNT
from inference.protocol import JsonSchema, Message, ToolCall

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

TEXT = "Hello there, world."
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
CALLS = (
    "I look.",
    '\n<tool_call>\n{"name": "weather", "arguments": {"ci',
    'ty": "Paris"}}\n</tool_call>',
    '\n<tool_call>\n{"name": "weather", "arguments": {}}\n</tool_call>',
)


def ask(api: Api, **changes: Any) -> Any:
    return api.openai.responses.create(**{"model": api.installation.version, "input": "say hello"} | changes)


def bill(answer: Any) -> dict[str, Any]:
    return dict((answer.model_extra or {})["loraledger"])


def sent(api: Api) -> Any:
    return api.installation.engine.requests[-1]


def test_a_text_is_answered_with_its_receipt(api: Api) -> None:
    answer = ask(api, instructions="Be brief.", max_output_tokens=16, temperature=0, metadata={"a": "b"})
    assert (answer.output_text, answer.status) == (TEXT, "completed")
    assert answer.id.startswith("resp_")
    assert (answer.usage.input_tokens, answer.usage.output_tokens, answer.usage.total_tokens) == (4, 4, 8)
    assert (answer.usage.model_extra or {})["cost"] == 1.2e-10
    assert (answer.instructions, answer.temperature, answer.metadata) == ("Be brief.", 0, {"a": "b"})
    assert (answer.store, answer.tool_choice, answer.tools) == (False, "auto", [])
    assert sent(api).messages == (Message("system", "Be brief."), Message("user", "say hello"))
    assert sent(api).sampling.max_tokens == 16
    assert bill(answer)["charge"] == AMOUNT.render(4 * 10 + 4 * 20)
    with api.http() as http:
        (stored,) = http.get("/v1/receipts").json()["data"]
    assert stored["id"] == bill(answer)["receipt_id"]
    expected = salted_hash(to_bytes(bill(answer)["salt"]), response_bytes([TEXT]))
    assert stored["receipt"]["response_hash"] == expected


def test_a_text_is_streamed_in_openais_events(api: Api) -> None:
    events = list(ask(api, stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 4,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert "".join(event.delta for event in events if event.type.endswith("delta")) == TEXT
    assert (events[0].response.status, events[0].response.output) == ("in_progress", [])
    assert (events[2].item.status, events[2].item.content) == ("in_progress", [])
    assert events[3].part.text == ""
    assert events[-1].response.output_text == TEXT
    assert bill(events[-1].response)["charge"] == AMOUNT.render(100)
    assert {event.item_id for event in events[3:10]} == {events[2].item.id}


def test_calls_follow_the_text_as_items(api: Api) -> None:
    api.installation.engine.words = CALLS
    answer = ask(api, tools=[WEATHER], tool_choice={"type": "function", "name": "weather"})
    message, first, second = answer.output
    assert message.content[0].text == "I look."
    assert [(call.name, call.arguments) for call in (first, second)] == [
        ("weather", '{"city": "Paris"}'),
        ("weather", "{}"),
    ]
    assert len({first.call_id, second.call_id, first.id, second.id}) == 4
    assert (answer.tools[0].name, answer.tool_choice.name) == ("weather", "weather")
    assert (sent(api).tools.only, sent(api).tools.is_required) == ("weather", True)
    assert bill(answer)["texts"] == ["".join(CALLS)]


def test_calls_are_streamed_item_by_item(api: Api) -> None:
    api.installation.engine.words = CALLS
    events = list(ask(api, tools=[WEATHER], stream=True))
    assert [(event.type.removeprefix("response."), event.output_index) for event in events[2:-1]] == [
        ("output_item.added", 0),
        ("content_part.added", 0),
        ("output_text.delta", 0),
        ("output_text.done", 0),
        ("content_part.done", 0),
        ("output_item.done", 0),
        ("output_item.added", 1),
        ("function_call_arguments.delta", 1),
        ("function_call_arguments.delta", 1),
        ("function_call_arguments.done", 1),
        ("output_item.done", 1),
        ("output_item.added", 2),
        ("function_call_arguments.delta", 2),
        ("function_call_arguments.done", 2),
        ("output_item.done", 2),
    ]
    assert events[11].arguments == '{"city": "Paris"}'
    assert [item.status for item in events[-1].response.output] == ["completed"] * 3


@pytest.mark.parametrize("by_dump", [False, True])
def test_an_agents_loop_sends_its_items_back(api: Api, *, by_dump: bool) -> None:
    """As the client's objects, and with every field that these have, null ones too."""
    api.installation.engine.words = CALLS
    items: list[Any] = [{"role": "user", "content": [{"type": "input_text", "text": "Weather?"}]}]
    output = ask(api, input=items, tools=[WEATHER]).output
    calls = [item for item in output if item.type == "function_call"]
    items += [item.model_dump(by_alias=True) for item in output] if by_dump else output
    items += [
        {"type": "function_call_output", "call_id": call.call_id, "output": f"{number} degrees"}
        for number, call in enumerate(calls)
    ]
    api.installation.engine.words = ("It is ", "cold.")
    assert ask(api, input=items, tools=[WEATHER]).output_text == "It is cold."
    assert sent(api).messages == (
        Message("user", "Weather?"),
        Message(
            "assistant",
            "I look.",
            (ToolCall("weather", '{"city": "Paris"}'), ToolCall("weather", "{}")),
        ),
        Message("tool", "0 degrees", name="weather"),
        Message("tool", "1 degrees", name="weather"),
    )


class City(BaseModel):
    city: str


def test_the_stock_client_parses_text_and_arguments(api: Api) -> None:
    api.installation.engine.words = ('{"city": ', '"Rome"}')
    parsed = api.openai.responses.parse(model=api.installation.version, input="x", text_format=City)
    assert parsed.output_parsed == City(city="Rome")
    constraint = sent(api).sampling.constraint
    assert isinstance(constraint, JsonSchema)
    assert list(json.loads(constraint.schema)["properties"]) == ["city"]
    api.installation.engine.words = CALLS[1:3]
    tool: Any = openai.pydantic_function_tool(City, name="weather")
    with api.openai.responses.stream(
        model=api.installation.version,
        input="x",
        tools=[tool],
    ) as stream:
        types = {event.type for event in stream}
        (call,) = stream.get_final_response().output
    assert call.type == "function_call"
    assert call.parsed_arguments == City(city="Paris")
    assert "response.function_call_arguments.done" in types


def test_formats_of_the_text(api: Api) -> None:
    for kind in (
        {"type": "json_object"},
        {"type": "text"},
        {"type": "json_schema", "name": "a", "schema": {}},
    ):
        ask(api, text={"format": kind})
    constraints = [request.sampling.constraint for request in api.installation.engine.requests]
    assert constraints == [JsonSchema('{"type": "object"}'), None, JsonSchema("{}")]


def test_a_text_that_was_cut_off_is_incomplete(api: Api) -> None:
    *_, last = ask(api, max_output_tokens=2, stream=True)
    assert (last.type, last.response.status) == ("response.incomplete", "incomplete")
    assert last.response.incomplete_details.reason == "max_output_tokens"
    assert last.response.output[0].status == "incomplete"
    api.installation.engine.waits_after = 2
    late = ask(api, extra_body={"loraledger": {"deadline_ms": 200}})
    assert (late.output_text, late.incomplete_details.reason) == ("Hello there", "deadline")


def test_an_answer_without_text_is_an_empty_message(api: Api) -> None:
    api.installation.engine.words = ("",)
    answer = ask(api)
    assert [item.type for item in answer.output] == ["message"]
    assert answer.output_text == ""


def test_a_stream_that_breaks_raises_and_costs_nothing(api: Api) -> None:
    api.installation.engine.breaks_after = 2
    with pytest.raises(openai.APIError, match="nothing was charged"):
        list(ask(api, stream=True))
    with api.http() as http:
        assert http.get("/v1/receipts").json()["data"] == []


def test_a_stream_that_its_own_schema_ends_is_charged_up_to_there(api: Api) -> None:
    api.installation.engine.gives_up_after = 2
    seen: list[Any] = []
    with pytest.raises(openai.APIError, match="what was streamed before is charged"):
        collections.deque(map(seen.append, ask(api, stream=True)), maxlen=0)
    assert seen[-1].type == "response.failed"
    assert seen[-1].response.error.message.startswith("the constraint is too complex")
    assert seen[-1].response.usage.output_tokens == 2
    with api.http() as http:
        assert len(http.get("/v1/receipts").json()["data"]) == 1


def test_a_retried_request_gets_the_same_response(api: Api) -> None:
    headers = {"idempotency-key": "one"}
    first, second = (list(ask(api, stream=True, extra_headers=headers)) for _ in range(2))
    assert [event.to_dict() for event in first] == [event.to_dict() for event in second]
    assert len(api.installation.engine.requests) == 1


def test_what_nobody_pays_for_is_a_402(api: Api) -> None:
    api.installation.fund(10)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(api)
    assert caught.value.status_code == 402


def test_errors_of_the_engine_name_this_endpoints_parameters(api: Api) -> None:
    with pytest.raises(openai.BadRequestError) as schema:
        ask(api, text={"format": {"type": "json_schema", "name": "a", "schema": {"not": {}}}})
    assert (schema.value.param, schema.value.code) == ("text.format", "invalid_schema")
    with pytest.raises(openai.BadRequestError) as long:
        ask(api, input="word " * 200)
    assert (long.value.param, long.value.code) == ("input", "context_length_exceeded")


def item(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "call_id": "c"} | fields


CALL = item("function_call", name="weather", arguments="{}")
RESULT = item("function_call_output", output="x")
LOGPROBS = "input.0.content.0.logprobs"


def output_text(**fields: Any) -> dict[str, Any]:
    return {"type": "output_text", "text": "x"} | fields


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        (
            {"previous_response_id": "resp_1"},
            "previous_response_id",
            "send the whole conversation in 'input'",
        ),
        ({"conversation": "conv_1"}, "conversation", "send the whole conversation in 'input'"),
        ({"store": True}, "store", "send false, or omit it"),
        ({"background": True}, "background", "stream it"),
        ({"include": ["reasoning.encrypted_content"]}, "include", "omit it"),
        ({"prompt": {"id": "p"}}, "prompt", "'instructions'"),
        ({"truncation": "auto"}, "truncation", "shorten 'input'"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "offer a function"),
        ({"tools": [{"type": "x" * 1000}]}, "tools.0.type", f"'{'x' * 64}'"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "input.0.type", "leave them out"),
        ({"max_tool_calls": 1}, "max_tool_calls", "not supported"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_what_to_do(
    api: Api, changes: dict[str, Any], param: str, said: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, **changes)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")
    assert said in caught.value.message
    assert api.installation.engine.requests == []


@pytest.mark.parametrize(
    "changes",
    [
        {"store": False, "background": False, "include": [], "truncation": "disabled"},
        {"previous_response_id": None, "conversation": None, "prompt": None, "store": None},
        {"tools": [], "top_p": 0, "reasoning": {"summary": None}, "text": {"verbosity": None}},
        {"input": [{"role": "assistant", "content": [output_text(annotations=[], logprobs=[])]}]},
    ],
)
def test_values_that_change_nothing_are_accepted(api: Api, changes: dict[str, Any]) -> None:
    assert ask(api, **changes).output_text == TEXT


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"input": ""}, "input", "at least 1 character"),
        ({"input": []}, "input", "at least 1 item"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input.0.role", "'user'"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input.0.content.0.type",
            "'input_text'",
        ),
        ({"input": [RESULT]}, "input.0.call_id", "no call"),
        ({"input": [CALL, RESULT, RESULT]}, "input.2.call_id", "already"),
        ({"input": [CALL, CALL]}, "input.1.call_id", "another call"),
        ({"input": [CALL | {"arguments": "{"}]}, "input.0.arguments", "JSON object"),
        ({"tools": [WEATHER, WEATHER]}, "tools.1.name", "more than one function"),
        ({"tools": [WEATHER | {"name": "a b"}]}, "tools.0.name", "pattern"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "no"}},
            "tool_choice",
            "names 'no'",
        ),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type", "'text'"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a", "schema": {"const": "x" * (1 << 16)}}}},
            "text.format.schema",
            "exceeds 65536 characters",
        ),
        ({"input": [{"role": "assistant", "content": [output_text(logprobs=[1])]}]}, LOGPROBS, "empty list"),
        ({"input": [CALL | {"async": True}]}, "input.0.async", "not supported: send null"),
        ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "not supported: send null"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort", "'low'"),
        ({"messages": []}, "messages", "unknown"),
        ({"max_tokens": 5}, "max_tokens", "unknown"),
    ],
)
def test_a_wrong_field_is_refused_by_name(api: Api, changes: dict[str, Any], param: str, said: str) -> None:
    with api.http() as http:
        body = {"model": api.installation.version, "input": "x"} | changes
        answer = http.post("/v1/responses", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    assert said in error["message"], error
    assert api.installation.engine.requests == []
