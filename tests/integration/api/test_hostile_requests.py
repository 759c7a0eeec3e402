"""Malformed raw requests: rejected with an error message, and the server continues."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import pytest

from backend.api import middleware

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api


def said(url: str, raw: bytes) -> str:
    """All that the server answers to these bytes, until it closes; nothing where it hangs up on the rest."""
    where = urlsplit(url)
    parts: list[bytes] = []
    with (
        socket.create_connection((str(where.hostname), int(where.port or 0)), timeout=10) as connection,
        suppress(ConnectionResetError, BrokenPipeError),
    ):
        connection.sendall(raw)
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts).decode("latin-1")


def request(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "host: x", "connection: close", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


@pytest.mark.parametrize(
    "name",
    ["a\rset-cookie: b=c", "a\nset-cookie: b=c", "a%0d%0aset-cookie: b=c", "a\x00b", "\xe9", "a" * 65, "a b"],
)
def test_a_request_id_cannot_write_headers_of_its_own(api: Api, name: str) -> None:
    answer = said(api.url, request("/health", f"x-request-id: {name}"))
    head = answer.split("\r\n\r\n")[0].split("\r\n")
    assert head[0].split()[1] in {"200", "400"}
    assert not [line for line in head if line.lower().startswith("set-cookie")]
    if head[0].split()[1] == "200":
        (own,) = [line for line in head if line.startswith("x-request-id")]
        assert own == "x-request-id: a" or own.startswith("x-request-id: req_")


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../../etc/passwd",
        "/v1/models/..%2f..%2f..%2fetc%2fpasswd",
        "/v1/models/%2e%2e/%2e%2e/ready",
        "/v1/models/a%00b",
        "/ipfs/..",
        "/ipfs/..%2f..%2fdatabase",
        "/ipfs/../keys?format=raw",
        "/ipfs/%2e%2e%2fkeys?format=car",
        "/v1/contributions/..%2f..%2fkeys/defects",
        "/v1/fine_tuning/jobs/..%2f..%2fkeys/events",
        "//v1/keys",
        "/v1//keys",
        "/v1/keys/../keys",
        "http://elsewhere/v1/keys",
    ],
)
def test_a_path_leads_nowhere_else(api: Api, path: str) -> None:
    answer = said(api.url, request(path, f"authorization: Bearer {api.key}"))
    head, body = answer.split("\r\n\r\n", 1)
    assert head.split()[1] in {"400", "403", "404"}, answer
    assert '"error"' in body
    assert "root:" not in body


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/a%00b",
        "/v1/contributions/a%00",
        "/v1/contributions/%00/defects",
        "/v1/fine_tuning/jobs/%00",
        "/v1/channels/%00",
        "/v1/receipts?after=%00",
        "/ipfs/%00?format=raw",
    ],
)
def test_a_nul_is_in_no_name(api: Api, path: str) -> None:
    """PostgreSQL refuses to look for one, which would be a defect of ours."""
    answer = said(api.url, request(path, f"authorization: Bearer {api.key}"))
    assert answer.split()[1] == "400", answer
    assert "NUL" in answer


@pytest.mark.parametrize(
    "raw",
    [
        request("/health", "x-large: " + "a" * (1 << 20)),
        request("/" + "a" * (1 << 20)),
        request("/health", *(f"x-{number}: {'b' * 100}" for number in range(10_000))),
        request("/health", "content-length: 5", "content-length: 6"),
        request("/health", "content-length: -1"),
        request("/health", "transfer-encoding: nonsense"),
        request("/health", "authorization: Bearer " + "a" * (1 << 20)),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
    ],
)
def test_oversized_and_malformed_heads_are_refused(api: Api, raw: bytes) -> None:
    answer = said(api.url, raw)
    assert not answer or answer.split()[1] in {"400", "413", "431", "501"}, answer[:200]
    assert httpx.get(f"{api.url}/health").status_code == 200


@pytest.mark.parametrize("path", ["/v1/auth/challenges", "/sign-in"])
def test_a_body_that_does_not_arrive_is_given_up(
    api: Api, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(middleware, "STALL_SECONDS", 0.2)
    headers = ("content-type: application/json", "content-length: 100", "accept: application/json")
    stalled = request(path, *headers).replace(b"GET", b"POST").replace(b"connection: close\r\n", b"")
    answer = said(api.url, stalled + b'{"account": ')
    assert answer.split()[1] == "408", answer
    assert "connection: close" in answer
    assert '"code": "body_stalled"' in answer
    assert "send it again" in answer


@pytest.mark.parametrize("token", ["", " ", "llk_", "lls_", "llk_\xe9", "llk_" + "a" * 30_000, "llk_a b"])
def test_odd_tokens_are_a_401(api: Api, token: str) -> None:
    answer = said(api.url, request("/v1/receipts", f"authorization: Bearer {token}"))
    assert answer.split()[1] == "401", answer[:200]


def test_two_authorizations_are_not_added_up(api: Api) -> None:
    first, second = "authorization: Bearer llk_wrong", f"authorization: Bearer {api.key}"
    assert said(api.url, request("/v1/receipts", first, second)).split()[1] == "401"
