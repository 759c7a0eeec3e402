"""Requests with an `Idempotency-Key`: charged once and replayed, even if clients disconnect."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.domain.errors import DiskFull
from backend.services.accounts.idempotency import Idempotency
from tests.integration.api.conftest import sign_in
from tests.support.fakes import some_key

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

KEY = {"idempotency-key": '"8e03978e-40d5-43e8-bc93-6894a57f9324"'}


def ask(api: Api, headers: dict[str, str] = KEY, **changes: Any) -> httpx.Response:
    body = {"model": api.installation.version, "messages": [{"role": "user", "content": "hi"}]} | changes
    with api.http() as http:
        return http.post("/v1/chat/completions", json=body, headers=headers)


def num_receipts(api: Api) -> int:
    with api.http() as http:
        return len(http.get("/v1/receipts").json()["data"])


def until_answered(api: Api, **changes: Any) -> httpx.Response:
    for _ in range(600):
        found = ask(api, **changes)
        if found.status_code != 409:
            return found
        time.sleep(0.05)
    pytest.fail("the request under the key never ended")


@pytest.mark.parametrize("stream", [False, True])
def test_a_repeated_request_is_answered_alike_and_charged_once(api: Api, stream: bool) -> None:
    first, second = ask(api, stream=stream), until_answered(api, stream=stream)
    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert first.headers["content-type"] == second.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert num_receipts(api) == len(api.installation.engine.requests) == 1


def test_the_stock_client_can_send_the_key(api: Api) -> None:
    client = api.openai.with_options(default_headers={"Idempotency-Key": "retry-1"})
    ids = {
        client.completions.create(model="tiny", prompt="a").model_extra["loraledger"]["receipt_id"]  # type: ignore[index]
        for _ in range(2)
    }
    assert len(ids) == num_receipts(api) == 1


def test_a_key_with_and_without_quotes_is_one(api: Api) -> None:
    bare = {"idempotency-key": KEY["idempotency-key"].strip('"')}
    assert ask(api).content == ask(api, bare).content


def test_another_body_under_the_key_is_refused(api: Api) -> None:
    ask(api)
    refused = ask(api, temperature=0)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "idempotency_key_reused")
    assert refused.json()["error"]["param"] == "Idempotency-Key"
    assert num_receipts(api) == 1


def test_a_duplicate_meanwhile_is_a_409_to_retry(api: Api) -> None:
    engine = api.installation.engine
    engine.waits_after = 1
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(ask, api, loraledger={"deadline_ms": 3000})
        assert engine.is_waiting.wait(60)
        second = ask(api, loraledger={"deadline_ms": 3000})
        assert (second.status_code, second.json()["error"]["code"]) == (409, "request_under_way")
        assert second.headers["retry-after"] == "1"
        assert first.result().status_code == 200
    assert num_receipts(api) == 1


def test_an_answer_outlives_the_server(api: Api) -> None:
    first = ask(api)
    installation = api.installation
    restarted = Idempotency(installation.db, installation.clock, 80)
    object.__setattr__(installation.services, "idempotency", restarted)
    assert ask(api).content == first.content
    assert num_receipts(api) == 1


def test_a_request_that_was_not_charged_may_be_repeated(api: Api) -> None:
    api.installation.fund(0)
    assert ask(api).status_code == 402
    api.installation.fund(10_000)
    assert ask(api).status_code == 200


def test_a_stream_that_broke_was_not_charged_and_runs_again(api: Api) -> None:
    api.installation.engine.breaks_after = 2
    assert "error" in ask(api, stream=True).text
    api.installation.engine.breaks_after = None
    again = until_answered(api, stream=True)
    assert again.text.endswith("data: [DONE]\n\n")
    assert "idempotency-replayed" not in again.headers
    assert num_receipts(api) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_what_may_have_been_charged_is_not_run_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """As when the database dies while it commits the receipt."""

    async def broken(*_: object) -> None:
        raise RuntimeError("the database is gone")

    monkeypatch.setattr(api.installation.admitting, "charge", broken)
    assert "internal_error" in ask(api, stream=stream).text
    again = ask(api, stream=stream)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "request_under_way")
    api.installation.clock.pass_seconds(81)
    assert ask(api, stream=stream).json()["error"]["code"] == "outcome_unknown"
    assert len(api.installation.engine.requests) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_be_stored_under_its_key_is_returned_and_not_run_again(
    api: Api, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """It is charged by then: its client must not read that nothing was changed."""

    def fail(*_: object) -> None:
        raise DiskFull("There is no room left. Nothing was changed.")

    monkeypatch.setattr(Idempotency, "store", fail)
    assert ask(api, stream=stream).status_code == 200
    assert ask(api, stream=stream).status_code == 409
    assert num_receipts(api) == len(api.installation.engine.requests) == 1


def test_a_client_that_leaves_its_stream_finds_it_whole(api: Api) -> None:
    api.installation.engine.waits_after = 2
    changes: dict[str, Any] = {"stream": True, "loraledger": {"deadline_ms": 1000}}
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}]} | changes
    with (
        api.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body, headers=KEY) as answer,
    ):
        next(answer.iter_lines())
    again = until_answered(api, model="tiny", **changes)
    assert "Hello" in again.text
    assert again.text.endswith("data: [DONE]\n\n")
    assert num_receipts(api) == 1


def test_writes_to_the_chain_are_prepared_once_too(api: Api) -> None:
    with api.http(api.session) as http:
        first = http.post("/v1/withdrawals/thaw/prepare", json={"amount": "5"}, headers=KEY)
        second = http.post("/v1/withdrawals/thaw/prepare", json={"amount": "5"}, headers=KEY)
        elsewhere = http.post("/v1/withdrawals/prepare", headers=KEY)
    assert (first.status_code, first.json()) == (200, second.json())
    assert second.headers["idempotency-replayed"] == "true"
    assert elsewhere.status_code == 422


def test_another_wallet_may_use_the_same_key(api: Api) -> None:
    ask(api)
    with api.http(sign_in(api.url, some_key("another wallet"))) as http:
        answer = http.post("/v1/withdrawals/prepare", headers=KEY)
    assert answer.status_code == 200


@pytest.mark.parametrize("key", ["", "a b", 'a"b', "x" * 256])
def test_a_malformed_key_is_refused(api: Api, key: str) -> None:
    answer = ask(api, {"idempotency-key": key})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert num_receipts(api) == 0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/keys", {"name": "another"}),
        ("/v1/auth/challenges", {"account": some_key("payer").account}),
        ("/v1/auth/sessions", {"message": "", "signature": "0x"}),
        ("/v1/contributions?datanet=1&name=a&licence=MIT", {}),
    ],
)
def test_where_no_answer_may_be_kept_the_key_is_refused(api: Api, path: str, body: dict[str, str]) -> None:
    with api.http(api.session) as http:
        answer = http.post(path, json=body, headers=KEY)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")


def test_a_key_without_credentials_is_a_401(api: Api) -> None:
    answer = httpx.post(f"{api.url}/v1/completions", json={}, headers=KEY)
    assert answer.status_code == 401
