"""A market's URL behind which something else answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backend.client.api import ApiClient
from backend.client.errors import ApiError, NotAMarket
from backend.client.keystore import LocalKey
from backend.client.pending_receipts import fetch_receipt
from backend.client.sessions import SessionFile
from backend.client.signing import Wallet
from backend.client.transfers import transfer
from backend.domain.deployment import Deployment
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.hashing import keccak
from tests.support.answering import JSON, PAGE, answering
from tests.support.market import CHAIN_ID, some_hash

if TYPE_CHECKING:
    from pathlib import Path


def client_of(url: str) -> ApiClient:
    deployment = Deployment(CHAIN_ID, 1, some_hash("block"), {})
    return ApiClient(url, Wallet(LocalKey(keccak(b"payer")), deployment, pytest.fail))


@pytest.mark.parametrize(
    ("status", "kind", "body", "why"),
    [
        (200, PAGE, "<html>Welcome</html>", "returned 200 with text/html"),
        (404, PAGE, "<html>Nothing</html>", "returned 404 with text/html"),
        (200, JSON, '{"jsonrpc": "2.0"}', "answers a sign-in with something else"),
        (200, JSON, "[1]", "answers a sign-in with something else"),
        (200, JSON, '{"message": 7}', "answers a sign-in with something else"),
        (404, JSON, '{"detail": "Not Found"}', "returned 404 with application/json"),
        (400, JSON, '{"error": "invalid"}', "returned 400 with application/json"),
    ],
)
def test_a_server_that_is_no_market_is_named(status: int, kind: str, body: str, why: str) -> None:
    with (
        answering(status, kind, body) as url,
        client_of(url) as client,
        pytest.raises(NotAMarket, match=why) as refused,
    ):
        client.sign_in()
    assert url in str(refused.value)


@pytest.mark.parametrize(
    "body", ["{}", '{"object": "list"}', "[]", '{"data": 7, "next_cursor": null}', "[" * 10**5]
)
def test_a_list_of_another_form_is_no_markets(body: str) -> None:
    with answering(200, JSON, body) as url, client_of(url) as client, pytest.raises(NotAMarket):
        client.list_all("/v1/models")


def test_a_member_that_an_answer_lacks_is_named() -> None:
    with answering(200, JSON, '{"data": [{"id": "model"}]}') as url, client_of(url) as client:
        (model,) = client.get("/v1/models")["data"]
        with pytest.raises(NotAMarket, match="no 'digest'; is this the URL of a market"):
            _ = model["digest"]


def test_a_redirect_is_not_followed_but_named() -> None:
    with (
        answering(301, PAGE, "", location="https://elsewhere.example/") as url,
        client_of(url) as client,
        pytest.raises(NotAMarket, match=r"redirects to https://elsewhere\.example/"),
    ):
        client.sign_in()


def test_a_market_that_is_down_can_be_tried_again() -> None:
    with (
        answering(502, PAGE, "<html>Bad gateway</html>") as url,
        client_of(url) as client,
        pytest.raises(Unavailable, match="answered 502; try again"),
    ):
        client.sign_in()
    with (
        client_of("http://127.0.0.1:1") as client,
        pytest.raises(Unavailable, match="is this the URL of a market"),
    ):
        client.sign_in()


@pytest.mark.parametrize(
    ("body", "headers", "error", "why"),
    [
        ('data: {"a": 1}\n\n', {"content-length": "100"}, Unavailable, r"connection to \S+ broke"),
        ('data: {"a": 1}\n\n', {"content-encoding": "gzip"}, Unavailable, r"connection to \S+ broke"),
        ("data: {\n\n", {}, NotAMarket, "malformed"),
        ("<html>Welcome</html>", {}, NotAMarket, "malformed"),
        ("data: 7\n\n", {}, NotAMarket, "malformed"),
        ('data: {"error": 7}\n\n', {}, NotAMarket, "malformed"),
        ('data: {"error": {"message": "full", "code": "overloaded"}}\n\n', {}, ApiError, "full"),
    ],
)
def test_a_stream_that_breaks_or_is_malformed_is_reported(
    body: str, headers: dict[str, str], error: type[Exception], why: str
) -> None:
    with (
        answering(200, "text/event-stream", body, **headers) as url,
        client_of(url) as client,
        pytest.raises(error, match=why),
    ):
        list(client.stream("/v1/chat/completions", {}))


def test_the_events_of_a_stream_are_what_line_feeds_end() -> None:
    events = [{"text": "line\u2028paragraph\u2029next\u0085end"}, {"text": "last"}]
    body = "".join(f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in events)
    with (
        answering(200, "text/event-stream", body + "data: [DONE]\n\n") as url,
        client_of(url) as client,
    ):
        assert list(client.stream("/v1/chat/completions", {})) == events


@pytest.mark.parametrize("details", ["y", ["y"], 7])
def test_details_of_another_form_are_left_out(details: Any) -> None:
    error = {"message": "no", "code": "refused", "details": details}
    with (
        answering(400, JSON, json.dumps({"error": error})) as url,
        client_of(url) as client,
        pytest.raises(ApiError, match="no") as refused,
    ):
        client.get("/v1/models")
    assert refused.value.details == {"status": 400, "code": "refused"}


@pytest.mark.parametrize("path", ["/v1/\n", "/v1/" + "a" * 70_000, "/v1/\ud800"])
def test_an_address_that_cannot_be_encoded_is_refused(path: str) -> None:
    with client_of("http://127.0.0.1:9") as client, pytest.raises(InvalidInput, match="cannot be encoded"):
        client.get(path)


@pytest.mark.parametrize("queued", ["[]", "", '{"transaction_id": "a\\nb"}', '{"transaction_id": 7}'])
def test_a_queued_transaction_of_another_form_is_refused(queued: str) -> None:
    with (
        answering(200, JSON, queued) as url,
        client_of(url) as client,
        pytest.raises(NotAMarket, match="the market has queued the transaction"),
    ):
        client.wait_confirmed(client.post("/v1/deposits/relay"))


@pytest.mark.parametrize("expires_at", ["soon", "2026-01-01", 7])
def test_a_session_must_say_when_it_ends(expires_at: Any, tmp_path: Path) -> None:
    answer = {"token": "t", "refresh_token": "r", "expires_at": expires_at}
    with answering(200, JSON, json.dumps(answer)) as url, client_of(url) as client:
        with pytest.raises(NotAMarket, match="the sign-in message was signed"):
            client._take(client.post("/v1/auth/sessions"))
        session = SessionFile(url, client.wallet.account, tmp_path)
    session._path.parent.mkdir(parents=True)
    session._path.write_text(json.dumps(answer))
    assert session.load() is None


@pytest.mark.parametrize(
    "answer", ["[]", '{"status": "pending"}', '{"status": "pending", "signed": {"receipt_by": 1e300}}']
)
def test_a_pending_receipt_of_another_form_is_refused(answer: str) -> None:
    with answering(200, JSON, answer) as url, client_of(url) as client, pytest.raises(NotAMarket):
        fetch_receipt(client, "charge-1", pytest.fail)


@pytest.mark.parametrize("reached", ["x", "-1", "0", "9"])
def test_a_transfer_must_go_on(reached: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    body = '{"data": [], "id": "t", "offset": 0, "num_bytes": 3}'
    with (
        answering(200, JSON, body, **{"Upload-Offset": reached}) as url,
        client_of(url) as client,
        pytest.raises(NotAMarket, match=r"Upload-Offset|invalid literal"),
    ):
        transfer(client, tmp_path / "rows.jsonl", lambda *_: None)


def test_an_error_of_the_api_keeps_its_code() -> None:
    error = {"message": "too many requests", "code": "rate_limited", "details": {"seconds": 3}}
    with (
        answering(429, JSON, json.dumps({"error": error})) as url,
        client_of(url) as client,
        pytest.raises(ApiError, match="POST /v1/auth/challenges: too many requests") as refused,
    ):
        client.sign_in()
    assert refused.value.details == {"status": 429, "code": "rate_limited", "seconds": 3}
