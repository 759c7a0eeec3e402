"""Parameters of the stock client: log-probabilities, schemas, several choices, a deadline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from pydantic import BaseModel

from backend.domain.hashing import response_bytes, salted_hash, to_bytes
from backend.domain.money import AMOUNT
from inference.protocol import JsonSchema

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionChunk

    from tests.integration.api.conftest import Api

HELLO: Any = [{"role": "user", "content": "say hello"}]
WORDS = ("Hello", " there", ", world", ".")
TEXT = "".join(WORDS)


def extra(answer: Any) -> dict[str, Any]:
    return dict((answer.model_extra or {})["loraledger"])


def ask(api: Api, **changes: Any) -> Any:
    wanted: dict[str, Any] = {"model": api.installation.version, "messages": HELLO} | changes
    return api.openai.chat.completions.create(**wanted)


def test_each_token_has_its_logprob_and_alternatives(api: Api) -> None:
    answer = ask(api, logprobs=True, top_logprobs=2)
    places = answer.choices[0].logprobs.content
    assert tuple(place.token for place in places) == WORDS
    assert len(places) == answer.usage.completion_tokens
    assert bytes(places[1].bytes) == b" there"
    assert [(top.token, top.logprob) for top in places[1].top_logprobs] == [
        (" there", -0.5),
        ("\\xe2\\x82", -1.5),
    ]
    assert api.installation.engine.requests[0].sampling.logprobs == 2


def test_without_alternatives_only_the_chosen_tokens_are_named(api: Api) -> None:
    (place, *_) = ask(api, logprobs=True).choices[0].logprobs.content
    assert (place.token, place.top_logprobs) == ("Hello", [])


@pytest.mark.parametrize("changes", [{}, {"logprobs": False}])
def test_logprobs_that_were_not_asked_for_are_null(api: Api, changes: dict[str, Any]) -> None:
    assert ask(api, **changes).choices[0].logprobs is None


def test_logprobs_come_with_the_chunks_of_their_tokens(api: Api) -> None:
    chunks = list(ask(api, logprobs=True, top_logprobs=1, stream=True))
    shown = [
        (choice.delta.content, [place.token for place in choice.logprobs.content])
        for chunk in chunks
        for choice in chunk.choices
        if choice.logprobs is not None
    ]
    assert shown == [(word, [word]) for word in WORDS]


async def test_the_asynchronous_client_streams_them_too(api: Api) -> None:
    async with openai.AsyncOpenAI(base_url=f"{api.url}/v1", api_key=api.key, max_retries=0) as client:
        stream = await client.chat.completions.create(
            model=api.installation.version, messages=HELLO, logprobs=True, stream=True
        )
        chunks = [chunk async for chunk in stream]
    places = [
        p for c in chunks for choice in c.choices if choice.logprobs for p in choice.logprobs.content or ()
    ]
    assert tuple(place.token for place in places) == WORDS


class Greeting(BaseModel):
    text: str
    is_loud: bool


def test_the_stock_client_parses_structured_output(api: Api) -> None:
    api.installation.engine.words = ('{"text": "hi', '", "is_loud"', ": false}")
    answer = api.openai.chat.completions.parse(
        model=api.installation.version, messages=HELLO, response_format=Greeting
    )
    assert answer.choices[0].message.parsed == Greeting(text="hi", is_loud=False)
    constraint = api.installation.engine.requests[0].sampling.constraint
    assert isinstance(constraint, JsonSchema)
    schema = json.loads(constraint.schema)
    assert list(schema["properties"]) == ["text", "is_loud"]


def test_the_stock_client_streams_structured_output(api: Api) -> None:
    api.installation.engine.words = ('{"text": "hi', '", "is_loud"', ": false}")
    with api.openai.chat.completions.stream(
        model=api.installation.version, messages=HELLO, response_format=Greeting
    ) as stream:
        answer = stream.get_final_completion()
    assert answer.choices[0].message.parsed == Greeting(text="hi", is_loud=False)


def test_a_json_object_is_a_schema_too_and_text_is_none(api: Api) -> None:
    ask(api, response_format={"type": "json_object"})
    ask(api, response_format={"type": "text"})
    ask(api, response_format={"type": "json_schema", "json_schema": {"name": "any", "schema": {}}})
    constraints = [sent.sampling.constraint for sent in api.installation.engine.requests]
    assert constraints == [JsonSchema('{"type": "object"}'), None, JsonSchema("{}")]


def test_a_schema_that_the_engine_refuses_is_a_400_by_name_and_costs_nothing(api: Api) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(api, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}}})
    assert (caught.value.param, caught.value.code) == ("response_format", "invalid_schema")
    with api.http() as http:
        assert http.get("/v1/receipts").json()["data"] == []


def test_choices_share_the_prompt_and_pay_for_all_their_tokens(api: Api) -> None:
    answer = ask(api, n=3, seed=7, max_tokens=2)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert {choice.message.content for choice in answer.choices} == {"Hello there"}
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 6)
    assert extra(answer)["charge"] == AMOUNT.render(2 * 10 + 6 * 20)
    assert [sent.sampling.seed for sent in api.installation.engine.requests] == [7, 8, 9]
    with api.http() as http:
        (stored,) = http.get("/v1/receipts").json()["data"]
    salt = to_bytes(extra(answer)["salt"])
    assert stored["receipt"]["response_hash"] == salted_hash(salt, response_bytes(["Hello there"] * 3))


def test_choices_are_told_apart_in_a_stream(api: Api) -> None:
    chunks: list[ChatCompletionChunk] = list(ask(api, n=2, stream=True))
    texts = ["", ""]
    reasons: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == [TEXT, TEXT]
    assert reasons == {0: "stop", 1: "stop"}
    assert [chunk for chunk in chunks if chunk.model_extra] == [chunks[-1]]
    assert extra(chunks[-1])["charge"] == AMOUNT.render(2 * 10 + 8 * 20)


def test_what_all_choices_may_cost_is_kept_before_the_engine_works(api: Api) -> None:
    api.installation.fund(2 * 10 + 3 * 4 * 20 - 1)
    with pytest.raises(openai.APIStatusError) as caught:
        ask(api, n=3, max_tokens=4)
    assert caught.value.status_code == 402
    assert api.installation.engine.requests == []


def test_a_choice_that_breaks_costs_nothing_of_the_others(api: Api) -> None:
    api.installation.engine.breaks_after = 2
    with pytest.raises(openai.APIError):
        list(ask(api, n=2, stream=True))
    with api.http() as http:
        assert http.get("/v1/receipts").json()["data"] == []


def test_a_flexible_tier_waits_behind_others(api: Api) -> None:
    flexible, usual = ask(api, service_tier="flex"), ask(api, service_tier="auto")
    assert (flexible.service_tier, usual.service_tier) == ("flex", "default")
    assert [sent.priority for sent in api.installation.engine.requests] == [-1, 0]
    assert ask(api).service_tier is None


def test_an_answer_is_cut_at_the_clients_own_deadline_and_charged_so_far(api: Api) -> None:
    api.installation.engine.waits_after = 2
    answer = ask(api, extra_body={"loraledger": {"deadline_ms": 200}})
    assert answer.choices[0].message.content == "Hello there"
    assert extra(answer)["charge"] == AMOUNT.render(2 * 10 + 2 * 20)
