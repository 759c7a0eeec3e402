from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from backend.chain.keys import recover
from backend.domain.hashing import (
    attribution_hash,
    receipt_id,
    response_bytes,
    salted_hash,
    slices_hash,
    to_bytes,
)
from backend.domain.money import AMOUNT
from backend.domain.receipt import Receipt, Share, Slice
from inference.protocol import Message
from tests.support.fakes import NOW

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

HELLO: Any = [{"role": "user", "content": "say hello"}]


def chat(api: Api, **changes: Any) -> dict[str, Any]:
    body = {"model": api.installation.version, "messages": HELLO} | changes
    return {name: value for name, value in body.items() if value is not None}


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def receipts(api: Api, at_least: int = 0) -> list[dict[str, Any]]:
    """Newest first; waits until there are that many."""
    with api.http() as http:
        for _ in range(600):
            found = http.get("/v1/receipts").json()["data"]
            if len(found) >= at_least:
                return list(found)
            time.sleep(0.05)
    pytest.fail(f"{at_least} receipts never came")


def events(lines: list[str]) -> list[Any]:
    data = [line.removeprefix("data: ") for line in lines if line]
    return [item if item == "[DONE]" else json.loads(item) for item in data]


def test_the_stock_client_gets_an_answer_with_its_receipt(api: Api) -> None:
    answer = api.openai.chat.completions.create(**chat(api, max_tokens=16, temperature=0, seed=1, user="u"))
    assert answer.choices[0].message.content == "Hello there, world."
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (2, 4)
    extra = (answer.model_extra or {})["loraledger"]
    assert extra["charge"] == {"micro_units": "100", "usd": "0.0000000001"}
    assert (answer.usage.model_extra or {})["cost"] == 1e-10
    (listed,) = receipts(api)
    assert listed["id"] == extra["receipt_id"]
    sampling = api.installation.engine.requests[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.seed) == (16, 0, 1)


def test_the_stock_client_streams(api: Api) -> None:
    api.installation.engine.cached_prompt_tokens = 1
    stream = api.openai.chat.completions.create(
        **chat(api), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello there, world."
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.total_tokens == 6
    assert last.usage.prompt_tokens_details is not None
    assert last.usage.prompt_tokens_details.cached_tokens == 1
    assert (last.model_extra or {})["loraledger"]["receipt_id"] == receipts(api)[0]["id"]


def test_without_usage_the_bill_is_on_the_finishing_chunk(api: Api) -> None:
    chunks = list(api.openai.chat.completions.create(**chat(api), stream=True))
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert (chunks[-1].model_extra or {})["loraledger"]["charge"] == AMOUNT.render(100)


def test_a_receipt_can_be_checked_with_nothing_but_the_domain(api: Api) -> None:
    body = json.dumps(chat(api)).encode()
    with api.http() as http:
        answer = http.post(
            "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
        ).json()
        bill = answer["loraledger"]
        shown = http.get(f"/v1/receipts/{bill['receipt_id']}").json()
    fields: dict[str, Any] = dict(shown["receipt"])
    fields |= {name: int(fields[name]) for name in ("cumulative", "charge")}
    receipt = Receipt(**fields)
    slices = tuple(
        Slice(s["version_id"], s["weight_ppm"], tuple(Share(x["position"], x["ppm"]) for x in s["shares"]))
        for s in shown["slices"]
    )
    salt = to_bytes(bill["salt"])
    assert receipt_id(receipt) == bill["receipt_id"]
    assert receipt.request_hash == salted_hash(salt, body)
    assert receipt.response_hash == salted_hash(
        salt, response_bytes([answer["choices"][0]["message"]["content"]])
    )
    assert receipt.slices_hash == slices_hash(slices)
    assert receipt.attribution_hash == attribution_hash(shown["method"], slices)
    signer = recover(api.installation.domain.receipt_digest(receipt), shown["signature"])
    assert signer == api.installation.receipt_key.account
    assert shown["salt"] == bill["salt"]
    assert [share["contribution"] for share in shown["slices"][0]["shares"]] == [0, 1, 3]
    assert all(share["contributor"] and share["datanet"] == 7 for share in shown["slices"][0]["shares"])


def test_the_receipt_is_durable_before_the_last_chunk_leaves(api: Api) -> None:
    with (
        api.http() as http,
        http.stream("POST", "/v1/chat/completions", json=chat(api, stream=True)) as answer,
    ):
        for line in answer.iter_lines():
            if "loraledger" in line:
                bill = json.loads(line.removeprefix("data: "))["loraledger"]
                with api.http() as other:
                    assert other.get(f"/v1/receipts/{bill['receipt_id']}").status_code == 200
                return
    pytest.fail("no bill in the stream")


def test_hanging_up_mid_stream_is_charged_and_has_a_receipt(api: Api) -> None:
    api.installation.engine.waits_after = 2
    with (
        api.http() as http,
        http.stream("POST", "/v1/chat/completions", json=chat(api, stream=True)) as answer,
    ):
        for line in answer.iter_lines():
            if "there" in line:
                break
    (receipt,) = receipts(api, at_least=1)
    assert receipt["receipt"]["completion_tokens"] == 2
    assert receipt["receipt"]["charge"] == str(2 * 10 + 2 * 20)
    with api.http() as http:
        channel = http.get(f"/v1/channels/{api.installation.operator}").json()
    assert (channel["charged"], channel["reserved"]) == (AMOUNT.render(60), AMOUNT.render(0))


def leave_while_the_engine_waits(api: Api, body: dict[str, Any]) -> None:
    url = httpx.URL(api.url)
    content = json.dumps(body)
    head = [
        "POST /v1/chat/completions HTTP/1.1",
        f"host: {url.netloc.decode()}",
        f"authorization: Bearer {api.key}",
        "content-type: application/json",
        f"content-length: {len(content)}",
    ]
    with socket.create_connection((url.host, url.port or 80)) as connection:
        connection.sendall("\r\n".join([*head, "", content]).encode())
        assert api.installation.engine.is_waiting.wait(60)


def test_hanging_up_without_a_stream_is_noticed_too(api: Api) -> None:
    api.installation.engine.waits_after = 2
    leave_while_the_engine_waits(api, chat(api))
    (receipt,) = receipts(api, at_least=1)
    assert receipt["receipt"]["completion_tokens"] == 2


@pytest.mark.parametrize("stream", [True, False])
def test_hanging_up_before_the_first_word_costs_nothing(api: Api, stream: bool) -> None:
    api.installation.engine.waits_after = 0
    leave_while_the_engine_waits(api, chat(api, stream=stream))
    with api.http() as http:
        for _ in range(600):
            channel = http.get("/v1/channels").json()["data"][0]
            if channel["reserved"] == AMOUNT.render(0):
                break
            time.sleep(0.05)
    assert channel["reserved"] == channel["charged"] == AMOUNT.render(0)


def test_an_engine_that_breaks_mid_stream_says_so_and_charges_nothing(api: Api) -> None:
    api.installation.engine.breaks_after = 2
    with pytest.raises(openai.APIError) as caught:
        list(api.openai.chat.completions.create(**chat(api), stream=True))
    assert caught.value.code == "engine_unavailable"
    assert receipts(api) == []


def test_a_stream_that_its_own_schema_ends_is_charged_up_to_there(api: Api) -> None:
    api.installation.engine.gives_up_after = 2
    with api.http() as http:
        lines = http.post("/v1/chat/completions", json=chat(api, stream=True)).text.split("\n")
    *_, billed, last = events(lines)
    assert billed["usage"]["completion_tokens"] == 2
    assert last["error"]["message"] == (
        "the constraint is too complex; the answer ends here, and what was streamed before is charged"
    )
    assert [each["id"] for each in receipts(api)] == [billed["loraledger"]["receipt_id"]]
    with pytest.raises(openai.APIError, match="too complex"):
        list(api.openai.chat.completions.create(**chat(api), stream=True))
    with pytest.raises(openai.BadRequestError):
        api.openai.chat.completions.create(**chat(api))
    assert len(receipts(api)) == 2, "nothing of the last one was sent"


def test_a_broken_stream_has_no_done(api: Api) -> None:
    api.installation.engine.breaks_after = 2
    with api.http() as http:
        lines = http.post("/v1/chat/completions", json=chat(api, stream=True)).text.split("\n")
    *_, last = events(lines)
    assert last["error"]["type"] == "server_error"


def test_an_engine_that_is_gone_is_a_503_to_retry(api: Api) -> None:
    api.installation.engine.is_gone = True
    with pytest.raises(openai.InternalServerError) as caught:
        api.openai.chat.completions.create(**chat(api))
    assert caught.value.status_code == 503
    assert caught.value.response.headers["retry-after"] == "1"


def test_an_unknown_model_is_named(api: Api) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        api.openai.chat.completions.create(**chat(api, model="gpt-4o"))
    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_an_empty_channel_is_a_402_that_says_what_is_missing(api: Api) -> None:
    api.installation.fund(40)
    with api.http() as http:
        answer = http.post("/v1/chat/completions", json=chat(api, max_tokens=4))
    assert answer.status_code == 402
    error = answer.json()["error"]
    assert error["code"] == "insufficient_balance"
    lack = {"micro_units": "60", "usd": "0.00000000006"}
    assert error["details"]["missing"] == {"balance": lack, "authorisation": lack}
    assert "the channel lacks 0.00000000006 dollars of balance" in error["message"]


def test_a_thawing_channel_and_a_used_up_session_are_a_402(api: Api) -> None:
    with api.http() as http:
        api.installation.fund(1000, thawing=950)
        thawing = http.post("/v1/chat/completions", json=chat(api, max_tokens=4))
        api.installation.fund(1000, cap=99)
        capped = http.post("/v1/chat/completions", json=chat(api, max_tokens=4))
    assert (thawing.status_code, capped.status_code) == (402, 402)
    assert thawing.json()["error"]["details"]["thawing"] == AMOUNT.render(950)
    assert capped.json()["error"]["code"] == "insufficient_authorisation"


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"guided_json": {}}, "guided_json", "unknown_parameter"),
        ({"functions": []}, "functions", "unsupported_parameter"),
        ({"store": True}, "store", "unsupported_parameter"),
        ({"service_tier": "priority"}, "service_tier", "invalid_parameter"),
        ({"logprobs": 1}, "logprobs", "invalid_parameter"),
        ({"top_logprobs": 1}, "top_logprobs", "invalid_parameter"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_parameter"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "invalid_parameter",
        ),
        (
            {"response_format": {"type": "json_object", "json_schema": {"name": "a"}}},
            "response_format.json_schema",
            "invalid_parameter",
        ),
        (
            {"response_format": json_schema({"const": "x" * (1 << 16)})},
            "response_format.json_schema.schema",
            "invalid_parameter",
        ),
        ({"loraledger": {"deadline_ms": 0}}, "loraledger.deadline_ms", "invalid_parameter"),
        ({"loraledger": {"blend": []}}, "loraledger.blend", "invalid_parameter"),
        ({"loraledger": {"blends": []}}, "loraledger.blends", "unknown_parameter"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_parameter"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_parameter"),
        ({"stop": [""]}, "stop", "invalid_parameter"),
        (
            {"messages": [{"role": "user", "content": "x", "name": "the user"}]},
            "messages.0.name",
            "invalid_parameter",
        ),
        *(
            (
                {"messages": [{"role": "assistant", "content": "x", field: value}]},
                f"messages.0.{field}",
                "unsupported_parameter",
            )
            for field, value in {
                "annotations": [{"type": "url_citation"}],
                "audio": {"id": "a"},
                "function_call": {"name": "f", "arguments": "{}"},
                "refusal": "I refuse.",
            }.items()
        ),
        ({"stream": True, "stream_options": {"extra": 1}}, "stream_options.extra", "unknown_parameter"),
        ({"n": 9}, "n", "invalid_parameter"),
        ({"temperature": 2.1}, "temperature", "invalid_parameter"),
        ({"temperature": "1"}, "temperature", "invalid_parameter"),
        ({"top_p": -0.1}, "top_p", "invalid_parameter"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "invalid_parameter"),
        ({"logit_bias": {"7": 101}}, "logit_bias.7", "invalid_parameter"),
        ({"max_tokens": 0}, "max_tokens", "invalid_parameter"),
        ({"messages": []}, "messages", "invalid_parameter"),
        ({"messages": None}, "messages", "missing_parameter"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role", "invalid_parameter"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "invalid_parameter"),
    ],
)
def test_a_wrong_or_unknown_field_is_refused_by_name(
    api: Api, changes: dict[str, Any], param: str, code: str
) -> None:
    with api.http() as http:
        answer = http.post("/v1/chat/completions", json=chat(api, **changes))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    assert f"'{param}'" in error["message"]
    assert api.installation.engine.requests == []


@pytest.mark.parametrize(
    "text",
    [
        '"temperature": NaN',
        '"top_p": Infinity',
        '"max_tokens": 1e400',
        '"max_tokens": 99999999999999999999999',
        '"user": "\\ud800"',
        '"stop": [["a"]]',
        '"model": {"a": 1}',
        '"n": true',
        '"stream": "yes"',
        '"metadata": ' + "[" * 100_000,
    ],
)
def test_values_that_json_can_hold_and_we_cannot_are_refused(api: Api, text: str) -> None:
    body = json.dumps(chat(api))[:-1] + f", {text}" + "}"
    with api.http() as http:
        answer = http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_five_stop_strings_are_refused(api: Api) -> None:
    with api.http() as http:
        answer = http.post("/v1/chat/completions", json=chat(api, stop=["a", "b", "c", "d", "e"]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_parameter")


def test_a_schema_nested_too_deep_is_no_defect(api: Api) -> None:
    schema: dict[str, Any] = {}
    for _ in range(900):
        schema = {"items": schema}
    with api.http() as http:
        answer = http.post("/v1/chat/completions", json=chat(api, response_format=json_schema(schema)))
    assert answer.status_code in {200, 400}  # as deep as the interpreter follows it is the engine's to judge


def test_parts_of_text_and_developer_messages_are_understood(api: Api) -> None:
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    api.openai.chat.completions.create(
        **chat(api, messages=messages, stop="x", extra_body={"top_k": 5}, metadata={"a": "b"}),
        logit_bias={"7": -2},
        frequency_penalty=0.5,
    )
    (sent,) = api.installation.engine.requests
    assert [(message.role, message.content) for message in sent.messages] == [
        ("system", "be brief"),
        ("user", "ab"),
    ]
    assert (sent.sampling.stop, sent.sampling.top_k) == (("x",), 5)
    assert (sent.sampling.logit_bias, sent.sampling.frequency_penalty) == ({7: -2}, 0.5)


def test_messages_of_the_stock_client_are_sent_back_as_they_are(api: Api) -> None:
    first = api.openai.chat.completions.create(**chat(api)).choices[0].message
    question = {"role": "user", "content": "And you?", "name": "Ada"}
    for answer in (first.model_dump(), first.model_dump() | {"annotations": [], "name": "loraledger"}):
        api.openai.chat.completions.create(**chat(api, messages=[answer, question], tools=[]))
    *_, plain, named = api.installation.engine.requests
    assert plain.messages == (
        Message("assistant", "Hello there, world."),
        Message("user", "And you?", name="Ada"),
    )
    assert named.messages[0].name == "loraledger"
    assert plain.tools is None


def test_a_top_p_of_zero_is_greedy(api: Api) -> None:
    api.openai.chat.completions.create(**chat(api, temperature=2, top_p=0, seed=7))
    (sent,) = api.installation.engine.requests
    assert (sent.sampling.temperature, sent.sampling.top_p) == (0, 1)


def test_models_are_listed_in_openais_shape(api: Api) -> None:
    listed = api.openai.models.list().data
    base, adapter = listed
    assert base.id == "tiny"
    assert [(model.model_extra or {})["is_active"] for model in listed] == [True, False]
    assert adapter.id.startswith(f"{adapter.owned_by}/docs@")
    found = api.openai.models.retrieve(adapter.id)
    assert (found.model_extra or {})["version_id"] == api.installation.version
    assert (found.model_extra or {})["cid"].startswith("bafy")
    assert (base.created, adapter.created, found.created) == (0, int(NOW.timestamp()) + 1, adapter.created)
    api.openai.chat.completions.create(**chat(api))
    assert (api.openai.models.retrieve(adapter.id).model_extra or {})["is_active"]
    api.installation.engine.is_gone = True
    assert not (api.openai.models.retrieve(adapter.id).model_extra or {})["is_active"]
