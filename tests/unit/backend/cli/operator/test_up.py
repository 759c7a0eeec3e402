from __future__ import annotations

from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from typing import TYPE_CHECKING

from backend.cli.operator.up import is_own_api
from backend.loopback import free_port
from tests.support.answering import QuietHandler, running

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest


@contextmanager
def an_api(token: str) -> Iterator[str]:
    """URL of a server that is healthy for all, and has metrics for the holder of the token."""

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            is_allowed = self.path == "/health" or self.headers["authorization"] == f"Bearer {token}"
            self.send_response(200 if is_allowed else 401)
            self.end_headers()

    with running(ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as url:
        yield url


def test_the_api_of_this_home_knows_its_token() -> None:
    with an_api("mine") as url:
        assert is_own_api(url, "mine")


def test_an_api_of_another_home_on_the_same_port_is_not_taken_for_it() -> None:
    with an_api("another's") as url:
        assert not is_own_api(url, "mine")


def test_the_token_goes_to_no_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with an_api("mine") as url:
        assert is_own_api(url, "mine")


def test_an_api_that_does_not_listen_yet_is_not_ready() -> None:
    assert not is_own_api(f"http://127.0.0.1:{free_port()}", "mine")
