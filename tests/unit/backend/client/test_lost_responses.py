"""Requests that change something, to a market whose responses get lost."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.chain.local_node import ROOT
from backend.cli import adapters, train
from backend.cli.registration import DEFAULT_SHARES, parse_listing, register_published
from backend.client import api, registries, waiting
from backend.client.api import KEYLESS, ApiClient
from backend.client.errors import SHOWN_BY, ApiError, ResponseLost
from backend.client.keystore import LocalKey
from backend.client.registries import create_datanet
from backend.client.signing import Wallet
from backend.domain.errors import Unavailable
from backend.domain.hashing import keccak
from backend.domain.idempotency import HEADER
from tests.support.market import some_account
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


AWAY = (503, {"error": {"code": "database_unavailable", "message": "Nothing was changed."}})


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
    monkeypatch.setattr(train, "POLL_SECONDS", 0)


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
    market = Market(httpx.ConnectError("refused"), TIMED_OUT, BUSY, AWAY, (200, {"state": "confirmed"}))
    assert market.client.wait_confirmed({"transaction_id": 7})["state"] == "confirmed"


def test_an_error_that_does_not_pass_ends_the_wait_for_a_transaction() -> None:
    unknown = {"error": {"code": "not_found", "message": "no such transaction"}}
    with pytest.raises(ApiError, match="no such transaction"):
        Market(AWAY, (404, unknown)).client.wait_confirmed({"transaction_id": 7})


def test_a_datanet_is_waited_for_while_the_market_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    named = {"id": 3, "name": "verse", "creator": some_account("creator")}
    shown = (200, {"data": [named], "next_cursor": None})
    market = Market((200, {"data": [], "next_cursor": None}), (200, {}), BUSY, AWAY, TIMED_OUT, shown)
    wallet = SimpleNamespace(account=some_account("creator"), send=lambda *_: None)
    monkeypatch.setattr(market.client, "wallet", wallet)
    assert create_datanet(market.client, "verse") == 3


def test_a_version_is_waited_for_while_the_market_is_away(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registries, "register_version", lambda *_: None)
    prepared = {"screening": None, "transaction": {}}
    market = Market((200, prepared), BUSY, AWAY, (200, {"version_id": None}), (200, {"version_id": "0x12"}))
    register_published(market.client, f"{JOBS}/1", parse_listing("verse", ("1", "1"), DEFAULT_SHARES))
    assert "verse is version 0x12" in capsys.readouterr().out


def test_a_job_is_watched_while_the_market_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    begun, done = ({"data": [{"seq": n, "message": f"step {n}"}], "has_more": False} for n in (1, 2))
    market = Market(
        *((200, {"status": "running"}), BUSY, (200, begun), AWAY, TIMED_OUT),
        *((200, {"status": "succeeded"}), UNDER_WAY, (200, done)),
    )
    assert train._follow(market.client, f"{JOBS}/1")["status"] == "succeeded"
    assert capsys.readouterr().out == "step 1\nstep 2\n"


def test_a_market_that_is_away_when_a_job_is_to_be_watched_is_named_at_once() -> None:
    with pytest.raises(ApiError, match="Nothing was changed"):
        train._follow(Market(AWAY).client, f"{JOBS}/1")


def test_an_import_is_followed_while_the_market_is_away() -> None:
    running, ended = ((200, {"finished_at": at}) for at in (None, 7))
    events = (200, {"data": [], "next_cursor": None})
    market = Market(AWAY, running, BUSY, running, events, TIMED_OUT, ended, events)
    assert adapters._follow(market.client, "import-1")["finished_at"] == 7


def test_a_transaction_that_is_not_confirmed_yet_may_still_be() -> None:
    with pytest.raises(Unavailable, match="it may still be: see GET /v1/transactions/7 before you repeat"):
        Market((200, {"state": "sent"})).client.wait_confirmed({"transaction_id": 7}, -1)
