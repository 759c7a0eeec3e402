"""Clients of a market's REST API: one for what is public, one for a wallet."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from itertools import chain
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import httpx

from backend.client.errors import (
    Answer,
    ApiError,
    NotAMarket,
    ResponseLost,
    advice_if_lost,
    is_passing,
    reading_answer,
)
from backend.client.responses import api_error, market_url, parse_json, response_error
from backend.client.sessions import Tokens
from backend.client.waiting import CONFIRMED_SECONDS, wait_through_outages
from backend.domain.errors import Conflict, InvalidInput, Unavailable
from backend.domain.idempotency import HEADER
from backend.domain.streams import LineSplitter, at_most

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.client.sessions import SessionFile
    from backend.client.signing import Wallet

TIMEOUT_SECONDS = 60
ANSWER_TIMEOUT = httpx.Timeout(TIMEOUT_SECONDS, read=240)
"""Of POST requests: an answer may take an operator 180 s, and 20 s to charge."""
ASKING_SECONDS, ASKING_EVERY_SECONDS = 240.0, 1.0
"""How long, and how often, an answer that was lost is asked for again."""
NOT_SENT = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)
"""Errors after which the server has nothing of the request."""
KEYLESS = re.compile(
    r"/v1/(auth|keys|webhook_endpoints)(/.*)?|/v1/((chat/)?completions|responses)|.*/(prepare|typed-data)"
)
"""Paths of POST requests without an `Idempotency-Key`: they change nothing, or their answers are secrets,
which a market does not store, or texts, which it would store for a day and generate to their end.
"""
QUEUED = "the market has queued the transaction"
"""What `reading_answer` says after a transaction was signed and relayed."""
RENEW_BEFORE = timedelta(seconds=60)
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class PublicClient:
    """Reads what the API of one market shows to everybody. `is_own`: it is this user's own installation."""

    def __init__(self, api_url: str, *, is_own: bool = False) -> None:
        self.api_url = market_url(api_url)
        self._is_own = is_own
        # A proxy from the environment cannot reach this machine's loopback.
        is_local = urlsplit(self.api_url).hostname in LOOPBACK
        self._http = httpx.Client(base_url=self.api_url, timeout=TIMEOUT_SECONDS, trust_env=not is_local)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """Return the response's JSON. Errors: `ApiError`, `NotAMarket`, `Unavailable` if the API is not
        reachable.
        """
        response = self.send(method, path, **options)
        return parse_json(response) if response.content else None

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the whole response. Errors: as `request`."""
        response = self._send_once(method, path, **options)
        if response.is_success:
            return response
        raise response_error(response)

    def _send_once(
        self, method: str, path: str, *, is_streamed: bool = False, **options: Any
    ) -> httpx.Response:
        """`is_streamed`: the body is not read yet, and the response must be closed."""
        try:
            request = self._http.build_request(method, path, **options)
            return self._http.send(request, stream=is_streamed)
        except httpx.RequestError as error:
            hint = "is `loraledger up` running?" if self._is_own else "is this the URL of a market?"
            if isinstance(error, NOT_SENT):
                raise Unavailable(f"the API at {self.api_url} is not reachable ({error}); {hint}") from error
            text = f"{self.api_url} did not answer {method} {path} ({error})"
            raise ResponseLost(f"{text}; {advice_if_lost(method, path) or hint}") from error
        except (httpx.InvalidURL, ValueError, RecursionError) as error:
            raise InvalidInput(f"the request {method} {path[:100]!r} cannot be encoded: {error}") from error

    def get(self, path: str, **params: Any) -> Any:
        return self.request("GET", path, params=params or None)

    def list_all(self, path: str, **params: Any) -> list[Any]:
        """Read all pages of a list."""
        found: list[Any] = []
        page = {"next_cursor": ""}
        while (cursor := page["next_cursor"]) is not None:
            page = self.get(path, limit=100, **params, **({"after": cursor} if cursor else {}))
            with reading_answer():
                found += page["data"]
        return found


class ApiClient(PublicClient):
    """Calls the API of one market for one wallet. Renews the wallet's session when it expires.

    `is_own`: the market is this user's own installation, whose sign-in messages may name any origin.
    `notice` is called with a line of text when the client signs in again by itself.
    """

    def __init__(
        self,
        api_url: str,
        wallet: Wallet,
        *,
        is_own: bool = False,
        notice: Callable[[str], object] = lambda _: None,
    ) -> None:
        super().__init__(api_url, is_own=is_own)
        self.wallet = wallet
        self._notice = notice
        self._tokens: Tokens | None = None
        self._file: SessionFile | None = None
        """Where the session is kept."""

    def _send_once(
        self, method: str, path: str, *, is_streamed: bool = False, **options: Any
    ) -> httpx.Response:
        """Send a request again in a renewed session if the session has expired: first in the one that another
        command has kept, whose tokens may have expired too.
        """
        for _ in range(2):
            response = super()._send_once(method, path, is_streamed=is_streamed, **options)
            has_expired = response.status_code == HTTPStatus.UNAUTHORIZED and self._tokens is not None
            if not has_expired or isinstance(options.get("content"), Iterator):
                return response
            response.close()
            self._renew_session()
        return super()._send_once(method, path, is_streamed=is_streamed, **options)

    def post(self, path: str, body: Any = None) -> Any:
        """Send a request that takes effect at most once, under a random `Idempotency-Key` unless it is one of
        `KEYLESS`.

        If the response to a key is lost, the same request asks for it again. Errors: as `request`;
        `ResponseLost` if no response comes.
        """
        if KEYLESS.fullmatch(path):
            return self.request("POST", path, json=body, timeout=ANSWER_TIMEOUT)
        options = {"json": body, "headers": {HEADER: secrets.token_hex(16)}, "timeout": ANSWER_TIMEOUT}
        try:
            return self.request("POST", path, **options)
        except ResponseLost as lost:
            self._notice(f"{lost}; asking for the answer again")
            return self._ask_again(path, options, lost)

    def _ask_again(self, path: str, options: dict[str, Any], lost: ResponseLost) -> Any:
        """Repeat a request under its key until it is answered. Errors: as `request`; `lost`."""
        until = time.monotonic() + ASKING_SECONDS
        while time.monotonic() < until:
            time.sleep(ASKING_EVERY_SECONDS)
            try:
                return self.request("POST", path, **options)
            except Unavailable:
                continue
            except ApiError as error:
                if not is_passing(error):
                    raise
        raise lost

    def delete(self, path: str) -> Any:
        return self.request("DELETE", path)

    @contextmanager
    def download(self, path: str, max_bytes: int, **params: Any) -> Iterator[Iterator[bytes]]:
        """The body of a response in chunks. Errors: as `request`; `NotAMarket` above `max_bytes`."""
        with self._opened("GET", path, params=params) as response:
            error = NotAMarket(f"{response.url.path} has more than {max_bytes} bytes")
            yield at_most(max_bytes, response.iter_bytes(), error)

    def stream(self, path: str, body: Any) -> Generator[Any, None, None]:
        """Yield the objects of a server-sent event stream. Errors: as `request`, also in mid-stream."""
        with self._opened("POST", path, json=body, timeout=ANSWER_TIMEOUT) as response:
            splitter = LineSplitter()
            # The line feed ends what is no stream of events, such as a page of a proxy: it is reported.
            pieces = chain(response.iter_text(), "\n")
            for line in chain.from_iterable(map(splitter.push, pieces)):
                text = line.removeprefix("data: ")
                if not text or text == "[DONE]":
                    continue
                with reading_answer():
                    event = json.loads(text, object_hook=Answer)
                    failure = api_error(response, event["error"]) if "error" in event else None
                if failure is not None:
                    raise failure
                yield event

    @contextmanager
    def _opened(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """A response whose body is not read yet. Errors: as `request`; `Unavailable` if it breaks off."""
        with closing(self._send_once(method, path, is_streamed=True, **options)) as response:
            try:
                if not response.is_success:
                    response.read()
                    raise response_error(response)
                yield response
            except httpx.RequestError as error:
                advice = advice_if_lost(method, path) or "try again"
                raise Unavailable(f"the connection to {self.api_url} broke ({error}); {advice}") from error

    # Sessions

    def resume(self, session: SessionFile) -> Self:
        """Continue the session that is kept in this file. Sign in again if it has ended; if there is none,
        sign in without keeping it.
        """
        kept = session.load()
        if kept is None:
            return self.sign_in()
        self._file = session
        self._use(kept)
        if kept.expires < datetime.now(UTC) + RENEW_BEFORE:
            self._renew_session()
        return self

    def sign_in(self) -> Self:
        """Errors: `SignatureRefused` for a message of another market or chain; `NotAMarket`."""
        challenge = self.post("/v1/auth/challenges", {"account": self.wallet.account})
        message = challenge.get("message") if isinstance(challenge, dict) else None
        if not isinstance(message, str):
            raise NotAMarket(f"{self.api_url} is not a market: it answers a sign-in with something else")
        signature = self.wallet.sign_in(message, None if self._is_own else self.api_url)
        self._take(self.post("/v1/auth/sessions", {"message": message, "signature": signature}))
        return self

    def keep_session(self, session: SessionFile) -> None:
        """Keep the session in this file from now on."""
        self._file = session
        if self._tokens is not None:
            session.save(self._tokens)

    def sign_out(self, session: SessionFile) -> None:
        """End a kept session, at the market and here. Errors: those of the market, which leave the file."""
        self._file, kept = session, session.load()
        if kept is not None:
            self._use(kept)
            if self._refresh():
                self.delete("/v1/auth/session")
        session.remove()  # last: what it holds is needed to end the session

    def _renew_session(self) -> None:
        """Use the tokens that another command has kept, or refresh; sign in again if the session has ended.

        A market ends a session of which a refresh token is used again.
        """
        kept = None if self._file is None else self._file.load()
        if self._tokens is not None and kept not in (None, self._tokens):
            self._use(kept)
        elif not self._refresh():
            self._notice(f"the session at {self.api_url} has ended; signing in again")
            self.sign_in()

    def _refresh(self) -> bool:
        """Exchange the refresh token for the next tokens; whether the session still exists."""
        tokens, self._tokens = self._tokens, None
        if tokens is None:
            return False
        try:
            self._take(self.post("/v1/auth/refresh", {"refresh_token": tokens.refresh_token}))
        except ApiError as error:
            if error.details["status"] != HTTPStatus.UNAUTHORIZED:
                raise
            return False
        return True

    def _take(self, session: dict[str, Any]) -> None:
        """Use the tokens of a response, and keep them."""
        with reading_answer("the sign-in message was signed"):
            tokens = Tokens(*(str(session[name]) for name in ("token", "refresh_token", "expires_at")))
        self._use(tokens)
        if self._file is not None:
            self._file.save(tokens)

    def _use(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._http.headers["Authorization"] = f"Bearer {tokens.token}"

    # Waiting

    def wait_confirmed(self, queued: dict[str, Any], seconds: float = CONFIRMED_SECONDS) -> dict[str, Any]:
        """Poll a relayed transaction until it is confirmed, which is when the API shows its effects.

        Errors: `Conflict` if it fails; `Unavailable` after `seconds`, after which it may still be confirmed.
        """
        with reading_answer(QUEUED):
            number = str(queued["transaction_id"])
        path = f"/v1/transactions/{number}"

        def confirmed() -> dict[str, Any] | None:
            with reading_answer(QUEUED):
                transaction: dict[str, Any] = self.get(path)
                if transaction["state"] == "failed":
                    raise Conflict(f"the transaction failed: {transaction['error']}")
                return transaction if transaction["state"] == "confirmed" else None

        what = f"transaction {number} to be confirmed"
        advice = f"it may still be: see GET {path} before you repeat the command"
        return wait_through_outages(confirmed, f"{what}; {advice}", seconds)
