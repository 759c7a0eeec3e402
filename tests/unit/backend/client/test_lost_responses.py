"""Requests that change something, to a market whose responses get lost."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.chain.local_node import ROOT
from backend.client import api, waiting
from backend.client.api import KEYLESS, ApiClient
from backend.client.errors import SHOWN_BY, ApiError, ResponseLost
from backend.client.keystore import LocalKey
from backend.client.signing import Wallet
from backend.domain.errors import Unavailable
from backend.domain.hashing import keccak
from backend.domain.idempotency import HEADER
from tests.support.terminal import scripted_deployment

if TYPE_CHECKING:
    from collections.abc import Iterator

JOBS = "/v1/fine_tuning/jobs"
Outcome = Exception | tuple[int, Any]
TIMED_OUT = httpx.ReadTimeout("The read operation timed out")
CUT_OFF = httpx.RemoteProtocolError("Server disconnected without sending a response.")
BAD_GATEWAY = (502, "<html>Bad gateway</html>")
UNDER_WAY = (409, {"error": {"code": "request_under_way", "message": "still running"}})
BUSY = (429, {"error": {"code": "rate_limited", "message": "too many requests"}})


class Market:
    """Runs each key once. `outcomes`: what the client gets instead of the first responses."""

    def __init__(self, *outcomes: Outcome) -> None:
        self._outcomes = list(outcomes)
        self.done: dict[str, int] = {}
        self.requests: list[httpx.Request] = []
        self.said: list[str] = []
        wallet = Wallet(LocalKey(keccak(b"payer")), scripted_deployment(), pytest.fail)
        self.client = ApiClient("https://market.example", wallet, notice=self.said.append)
        transport = httpx.MockTransport(self._answer)
        self.client._http = httpx.Client(base_url="https://market.example", transport=transport)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        key = request.headers.get("idempotency-key", f"none {len(self.requests)}")
        number = self.done.setdefault(key, len(self.done) + 1)
        outcome = self._outcomes.pop(0) if self._outcomes else (200, {"id": number})
        if isinstance(outcome, Exception):
            raise outcome
        status, body = outcome
        return httpx.Response(status, text=body if isinstance(body, str) else json.dumps(body))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ASKING_EVERY_SECONDS", 0)
    monkeypatch.setattr(waiting, "POLL_SECONDS", 0)


@pytest.mark.parametrize("lost", [TIMED_OUT, CUT_OFF, BAD_GATEWAY])
def test_an_answer_that_is_lost_is_asked_for_under_the_same_key(lost: Outcome) -> None:
    market = Market(lost, UNDER_WAY, httpx.ConnectError("refused"), BUSY)
    assert market.client.post(JOBS, {"training_file": "0x12"}) == {"id": 1}
    assert list(market.done.values()) == [1], "one job"
    (said,) = market.said
    assert said.endswith(
        "it may have been done: see `loraledger train list` before you repeat it; asking for the answer again"
    )


def test_two_requests_have_two_keys() -> None:
    market = Market()
    assert [market.client.post(JOBS, {})["id"] for _ in range(2)] == [1, 2]


def test_an_error_of_the_repeated_request_is_its_outcome() -> None:
    refusal = {"error": {"code": "insufficient_balance", "message": "deposit first"}}
    with pytest.raises(ApiError, match="deposit first"):
        Market(TIMED_OUT, (402, refusal)).client.post(JOBS, {})


def test_a_market_that_does_not_answer_again_may_have_done_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "ASKING_SECONDS", 0)
    for path, shown_by in SHOWN_BY.items():
        with pytest.raises(ResponseLost, match=f"may have been done: see `{shown_by}` before you repeat it"):
            Market(TIMED_OUT).client.post(path, {})


def test_a_market_that_is_not_reachable_has_done_nothing() -> None:
    market = Market(httpx.ConnectError("refused"))
    with pytest.raises(Unavailable, match=r"not reachable \(refused\); is this the URL of a market\?"):
        market.client.post(JOBS, {})
    assert len(market.requests) == 1


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_an_answer_of_a_model_has_no_key_under_which_the_market_would_store_its_text(path: str) -> None:
    market = Market(TIMED_OUT)
    with pytest.raises(ResponseLost, match="may have been done: see `loraledger receipts list` before you"):
        market.client.post(path, {"model": "tiny"})
    assert market.said == []
    (request,) = market.requests
    assert HEADER.lower() not in request.headers


def test_a_stream_that_breaks_may_have_been_charged() -> None:
    with pytest.raises(Unavailable, match="may have been done: see `loraledger receipts list`"):
        list(Market(CUT_OFF).client.stream("/v1/chat/completions", {}))


def test_an_answer_is_waited_for_as_long_as_an_operator_may_take() -> None:
    market = Market()
    market.client.post("/v1/chat/completions", {})
    list(market.client.stream("/v1/chat/completions", {}))
    assert all(request.extensions["timeout"]["read"] > 200 for request in market.requests)


def post_paths() -> Iterator[tuple[str, bool]]:
    """Paths of the API's POST requests, and whether each takes a key."""
    described = json.loads((ROOT / "tests" / "snapshots" / "openapi.json").read_text())
    for path, operations in described["paths"].items():
        if "post" in operations:
            parameters = operations["post"].get("parameters", [])
            yield path, any(parameter.get("name") == "Idempotency-Key" for parameter in parameters)


def test_only_requests_that_take_a_key_have_one() -> None:
    uploads = {"/v1/contributions", "/v1/files", "/v1/transfers"}
    refused = {path for path, takes_key in post_paths() if not takes_key} - uploads
    assert {path for path in refused if not KEYLESS.fullmatch(path)} == set()
    assert set(SHOWN_BY) <= {path for path, _ in post_paths()}


def test_a_queued_transaction_is_followed_while_the_market_is_away() -> None:
    market = Market(httpx.ConnectError("refused"), TIMED_OUT, (200, {"state": "confirmed"}))
    assert market.client.wait_confirmed({"transaction_id": 7})["state"] == "confirmed"


def test_a_transaction_that_is_not_confirmed_yet_may_still_be() -> None:
    with pytest.raises(Unavailable, match="it may still be: see GET /v1/transactions/7 before you repeat"):
        Market((200, {"state": "sent"})).client.wait_confirmed({"transaction_id": 7}, -1)
