"""Tool calls with the stock client: complete, streamed, replayed, and refused by name."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from pydantic import BaseModel

from backend.domain.hashing import response_bytes, salted_hash, to_bytes
from inference.protocol import JsonSchema, Message, ToolCall
from tests.support.scripted_engine import REFUSED_PARAMETERS

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "Weather of a city.", "parameters": CITY},
}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
QUESTION: Any = {"role": "user", "content": "Weather in Paris?"}
PARIS = (
    "I look.",
    "\n<tool_call>",
    '\n{"name": "weather", "arguments": {"ci',
    'ty": "Paris"}',
    "}\n</tool_call>",
)
ROME = ("\n<tool_call>\n", '{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>')


def ask(api: Api, **changes: Any) -> Any:
    wanted = {"model": api.installation.version, "messages": [QUESTION], "tools": [WEATHER, CLOCK]} | changes
    return api.openai.chat.completions.create(**wanted)


def bill(answer: Any) -> dict[str, Any]:
    return dict((answer.model_extra or {})["loraledger"])


def test_calls_are_told_from_the_text_before_them(api: Api) -> None:
    api.installation.engine.words = (*PARIS, *ROME)
    choice = ask(api).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("I look.", "tool_calls")
    calls = choice.message.tool_calls
    assert [(call.type, call.function.name) for call in calls] == [("function", "weather")] * 2
    assert [json.loads(call.function.arguments) for call in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({call.id for call in calls}) == 2
    (sent,) = api.installation.engine.requests
    assert sent.tools is not None
    assert [function.name for function in sent.tools.functions] == ["weather", "clock"]
    assert (sent.tools.is_required, sent.tools.only, sent.tools.is_parallel) == (False, None, True)


def test_an_answer_may_be_text_alone(api: Api) -> None:
    choice = ask(api).choices[0]
    assert (choice.message.content, choice.finish_reason) == ("Hello there, world.", "stop")
    assert choice.message.tool_calls is None


def test_the_receipt_is_for_what_the_model_wrote(api: Api) -> None:
    api.installation.engine.words = PARIS
    answer = ask(api, n=2)
    found = bill(answer)
    assert found["texts"] == ["".join(PARIS)] * 2
    with api.http() as http:
        (stored,) = http.get("/v1/receipts").json()["data"]
    salt = to_bytes(found["salt"])
    assert stored["receipt"]["response_hash"] == salted_hash(salt, response_bytes(found["texts"]))
    assert answer.usage.completion_tokens == 2 * len(PARIS)


def test_a_call_that_is_cut_off_has_the_arguments_so_far(api: Api) -> None:
    api.installation.engine.words = PARIS
    answer = ask(api, max_tokens=3)
    (call,) = answer.choices[0].message.tool_calls
    assert (call.function.arguments, answer.choices[0].finish_reason) == ('{"ci', "length")


def test_calls_are_streamed_as_deltas(api: Api) -> None:
    api.installation.engine.words = (*PARIS, *ROME)
    chunks = list(ask(api, stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", None)
    assert "".join(delta.content or "" for delta in deltas) == "I look."
    assert all(len(delta.tool_calls or ()) <= 1 for delta in deltas)
    pieces = [piece for delta in deltas for piece in delta.tool_calls or ()]
    assert [(p.index, p.function.name, p.type) for p in pieces if p.id] == [
        (0, "weather", "function"),
        (1, "weather", "function"),
    ]
    assert [(p.index, p.function.arguments) for p in pieces if not p.id] == [
        (0, '{"ci'),
        (0, 'ty": "Paris"}'),
        (1, '{"city": "Rome"}'),
    ]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert bill(chunks[-1])["texts"] == ["".join((*PARIS, *ROME))]


class City(BaseModel):
    city: str


def test_the_stock_client_parses_streamed_calls(api: Api) -> None:
    api.installation.engine.words = PARIS
    tool = openai.pydantic_function_tool(City, name="weather")
    with api.openai.chat.completions.stream(
        model=api.installation.version, messages=[QUESTION], tools=[tool]
    ) as stream:
        events = [event.type for event in stream]
        answer = stream.get_final_completion()
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.function.parsed_arguments == City(city="Paris")
    assert answer.choices[0].message.content == "I look."
    assert "tool_calls.function.arguments.done" in events


def test_an_agents_loop_sends_the_calls_and_their_results_back(api: Api) -> None:
    api.installation.engine.words = (*PARIS, *ROME)
    first = ask(api).choices[0].message
    results = [
        {"role": "tool", "tool_call_id": call.id, "content": f"{number} degrees", "name": "weather"}
        for number, call in enumerate(first.tool_calls)
    ]
    api.installation.engine.words = ("It is ", "cold.")
    assert ask(api, messages=[QUESTION, first, *results]).choices[0].message.content == "It is cold."
    sent = api.installation.engine.requests[-1].messages
    assert sent[1] == Message(
        "assistant",
        "I look.",
        (ToolCall("weather", '{"city": "Paris"}'), ToolCall("weather", '{"city": "Rome"}')),
    )
    assert sent[2:] == (
        Message("tool", "0 degrees", name="weather"),
        Message("tool", "1 degrees", name="weather"),
    )


def test_choices_of_a_tool_reach_the_engine(api: Api) -> None:
    api.installation.engine.words = PARIS[1:]
    named = {"type": "function", "function": {"name": "weather"}}
    for choice in ("required", named, "auto", "none"):
        ask(api, tool_choice=choice, parallel_tool_calls=False, reasoning_effort="low")
    sent = [request.tools for request in api.installation.engine.requests]
    assert [tools and (tools.is_required, tools.only, tools.is_parallel) for tools in sent] == [
        (True, None, False),
        (True, "weather", False),
        (False, None, False),
        None,
    ]
    assert api.installation.engine.requests[0].reasoning_effort == "low"


def test_a_schema_binds_the_text_beside_tools(api: Api) -> None:
    api.installation.engine.words = ('{"city": ', '"Rome"}')
    answer = api.openai.chat.completions.parse(
        model=api.installation.version,
        messages=[QUESTION],
        tools=[openai.pydantic_function_tool(City, name="weather")],
        response_format=City,
    )
    assert answer.choices[0].message.parsed == City(city="Rome")
    assert isinstance(api.installation.engine.requests[0].sampling.constraint, JsonSchema)


def test_a_schema_that_cannot_be_bound_costs_nothing(api: Api) -> None:
    parameters = json.loads(REFUSED_PARAMETERS)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, tools=[{"type": "function", "function": {"name": "f", "parameters": parameters}}])
    assert (caught.value.param, caught.value.code) == ("tools", "invalid_tool_schema")
    with api.http() as http:
        assert http.get("/v1/receipts").json()["data"] == []


def call(number: int, **changes: Any) -> dict[str, Any]:
    function = {"name": "weather", "arguments": "{}"} | changes
    return {"id": f"call_{number}", "type": "function", "function": function}


def result(number: int, **changes: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": f"call_{number}", "content": "x"} | changes


def tool(**changes: Any) -> dict[str, Any]:
    return {"type": "function", "function": WEATHER["function"] | changes}


def calling(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": None, "tool_calls": list(calls)}


@pytest.mark.parametrize(
    ("changes", "param", "said"),
    [
        ({"tools": [], "tool_choice": "auto"}, "tool_choice", "requires 'tools'"),
        ({"tools": [tool(name=f"f{i}") for i in range(129)]}, "tools", "at most 128 items"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type", "'function'"),
        ({"tools": [tool(), tool()]}, "tools.1.function.name", "more than one function 'weather'"),
        ({"tools": [tool(name="the weather")]}, "tools.0.function.name", "pattern"),
        ({"tools": [tool(parameters={"type": "array"})]}, "tools.0.function.parameters", "'object'"),
        (
            {"tools": [tool(parameters={"const": "x" * (1 << 16)})]},
            "tools.0.function.parameters",
            "exceeds 65536 characters",
        ),
        (
            {"tools": [tool(name=name, parameters={"title": "x" * 40_000}) for name in "ab"]},
            "tools",
            "exceed 65536 characters together",
        ),
        ({"tools": [tool(), WEATHER | {"cache": 1}]}, "tools.1.cache", "unknown"),
        ({"tool_choice": {"type": "function", "function": {"name": "no"}}}, "tool_choice", "names 'no'"),
        ({"tool_choice": "any"}, "tool_choice", "'required'"),
        ({"tools": None, "tool_choice": "auto"}, "tool_choice", "requires 'tools'"),
        ({"tools": None, "parallel_tool_calls": False}, "parallel_tool_calls", "requires 'tools'"),
        ({"messages": [QUESTION, result(1)]}, "messages.1.tool_call_id", "no call"),
        ({"messages": [calling(call(1)), result(1), result(1)]}, "messages.2.tool_call_id", "already"),
        (
            {"messages": [calling(call(1)), calling(call(2)), result(1)]},
            "messages.2.tool_call_id",
            "no call",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id", "role 'tool'"),
        ({"messages": [calling(call(1)), result(1, name="other")]}, "messages.1.name", "is of 'weather'"),
        ({"messages": [result(1, role="user")]}, "messages.0.tool_call_id", "role 'tool'"),
        ({"messages": [calling(call(1), call(1))]}, "messages.0.tool_calls", "another call"),
        ({"messages": [calling() | {"role": "user"}]}, "messages.0.content", "without tool calls"),
        ({"messages": [calling(call(1)) | {"role": "user"}]}, "messages.0.tool_calls", "'assistant'"),
        (
            {"messages": [calling(call(1, arguments="[1]"))]},
            "messages.0.tool_calls.0.function.arguments",
            "JSON object",
        ),
        (
            {"messages": [calling(call(1, arguments='{"a": NaN}'))]},
            "messages.0.tool_calls.0.function.arguments",
            "JSON object",
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages.0.content", "without tool calls"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort", "'low'"),
    ],
)
def test_a_wrong_tool_or_call_is_refused_by_name(
    api: Api, changes: dict[str, Any], param: str, said: str
) -> None:
    body = {"model": api.installation.version, "messages": [QUESTION], "tools": [WEATHER]} | changes
    with api.http() as http:
        answer = http.post(
            "/v1/chat/completions", json={name: value for name, value in body.items() if value is not None}
        )
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["param"] == param, error
    assert said in error["message"]
    assert api.installation.engine.requests == []
