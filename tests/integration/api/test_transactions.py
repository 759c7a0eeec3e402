"""Transactions that the operator sends for a caller: listed, and streamed as events."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backend.api.routers import registry
from backend.domain.money import GWEI
from backend.domain.transactions import TransactionAttempt
from backend.services.transactions.relays import ACCOUNT_SHARE, FEE_OF_PRICE
from tests.integration.api.conftest import sign_in
from tests.support.fakes import some_key
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.db.transactions import TransactionStore
    from tests.integration.api.conftest import Api

HASH = some_hash("transaction")
REVERT = {"error": "SessionRevoked", "message": "the key was revoked", "args": {"key": some_account("key")}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "POLL_SECONDS", 0.01)


def relay_grant(api: Api, nonce: int = 0) -> int:
    grant = {"key": some_account("key"), "cap": "9", "expiry": 4_000_000_000}
    relayed = {"grant": grant, "nonce": str(nonce), "signature": "0x" + "ab" * 65}
    with api.http(api.session) as http:
        answer = http.post("/v1/sessions/relay", json=relayed)
    assert answer.status_code == 202, answer.text
    return int(answer.json()["transaction_id"])


def test_beyond_the_relay_budget_a_wallet_is_told_when_to_try_again(api: Api) -> None:
    api.installation.relays._budget = 21_000 * FEE_OF_PRICE * GWEI * ACCOUNT_SHARE
    relay_grant(api)
    grant = {"key": some_account("key"), "cap": "9", "expiry": 4_000_000_000}
    relayed = {"grant": grant, "nonce": "1", "signature": "0x" + "ab" * 65}
    with api.http(api.session) as http:
        answer = http.post("/v1/sessions/relay", json=relayed)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (
        429,
        "relay_budget_spent",
        "rate_limit_error",
    )
    assert int(answer.headers["retry-after"]) > 1
    assert "grantSessionWithSig would exceed that. Try again later" in error["message"]


def test_a_wallet_sees_the_transactions_that_are_sent_for_it(api: Api) -> None:
    first, again, second = relay_grant(api), relay_grant(api), relay_grant(api, nonce=1)
    assert first == again
    with api.http() as http:
        listed = http.get("/v1/transactions").json()["data"]
    assert [(each["id"], each["state"]) for each in listed] == [(second, "queued"), (first, "queued")]
    assert listed[0]["function"] == "grantSessionWithSig"
    with api.http(sign_in(api.url, some_key("another wallet"))) as http:
        assert http.get("/v1/transactions").json()["data"] == []
        assert http.get(f"/v1/transactions/{first}").status_code == 404
        assert http.get(f"/v1/transactions/{first}/events/stream").status_code == 404


def followed(api: Api, number: int, steps: list[Callable[[TransactionStore], Any]]) -> list[tuple[str, Any]]:
    """The events of a transaction that takes the next step whenever one was shown."""
    events: list[tuple[str, Any]] = []
    names: list[str] = []
    with api.http() as http, http.stream("GET", f"/v1/transactions/{number}/events/stream") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event: "):
                names.append(line[7:])
            if line.startswith("data: "):
                events.append((names[-1], json.loads(line[6:])))
                if steps:
                    with api.installation.begin() as tx:
                        steps.pop(0)(tx.transactions)
    return events


def test_a_transaction_is_followed_to_its_confirmation_over_a_reorganised_chain(api: Api) -> None:
    number, lane = relay_grant(api), api.installation.operator

    def send(store: TransactionStore) -> None:
        store.assign_nonce(lane, number, 0, 21_000)
        store.add_attempt(number, TransactionAttempt(HASH, "0x", 1, 1, 1))

    with api.installation.begin() as tx:
        tx.transactions.lock_lane(lane)
    events = followed(
        api,
        number,
        [
            send,
            lambda store: store.mark_mined(number, HASH, 5, some_hash("block")),
            lambda store: store.mark_unmined(number),
            lambda store: store.mark_mined(number, HASH, 6, some_hash("other block")),
            lambda store: store.mark_confirmed(number),
        ],
    )
    names = [name for name, _ in events]
    assert names == ["queued", "sent", "mined", "sent", "mined", "confirmed"]
    assert [shown["state"] for _, shown in events] == names
    assert (events[-1][1]["hash"], events[-1][1]["block_number"]) == (HASH, 6)
    with api.http() as http:
        assert http.get(f"/v1/transactions/{number}").json() == events[-1][1]


def test_a_transaction_is_confirmed_once_its_block_is_indexed(api: Api) -> None:
    number, view = relay_grant(api), api.installation.view
    with api.installation.begin() as tx:
        tx.transactions.mark_mined(number, HASH, view.block_number + 1, some_hash("block"))
        tx.transactions.mark_confirmed(number)
    with api.http() as http:
        for state in ("mined", "confirmed"):
            (listed,) = http.get("/v1/transactions").json()["data"]
            assert http.get(f"/v1/transactions/{number}").json() == listed
            assert (listed["state"], listed["block_number"]) == (state, 10)
            view.block_number = 10


def test_a_transaction_that_fails_says_why_and_the_stream_ends(api: Api) -> None:
    number = relay_grant(api)
    events = followed(api, number, [lambda store: store.mark_failed(number, REVERT)])
    assert [name for name, _ in events] == ["queued", "failed"]
    assert events[-1][1]["error"] == REVERT
    assert [name for name, _ in followed(api, number, [])] == ["failed"]


def test_what_nobody_sends_is_no_stream(api: Api) -> None:
    with api.http() as http:
        answer = http.get("/v1/transactions/999/events/stream")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
