"""The REST API as the command line uses it, for one wallet."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Self, TypeVar

from backend.domain.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from backend.cli.wallet import Wallet

T = TypeVar("T")
POLL_SECONDS = 0.25


class ApiRefused(Conflict):
    """The API answered with an error; `details["status"]` is its HTTP status."""


class Market:
    """One wallet at one installation."""

    def __init__(self, api_url: str, wallet: Wallet) -> None:
        import httpx

        self.wallet = wallet
        self.api_url = api_url
        self._http = httpx.Client(base_url=api_url, timeout=60)
        self._refresh_token = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._http.close()

    def request(self, method: str, path: str, **options: Any) -> Any:
        """The JSON body. Errors: `ApiRefused`, `Unavailable` when nobody answers."""
        response = self.exchange(method, path, **options)
        return response.json() if response.content else None

    def exchange(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The whole answer. Errors: as above."""
        response = self._send(method, path, **options)
        has_expired = response.status_code == HTTPStatus.UNAUTHORIZED and self._refresh_token
        if has_expired and not isinstance(options.get("content"), Iterator):
            self._renew()
            response = self._send(method, path, **options)
        if response.is_success:
            return response
        body = {"message": response.text[:500]} | _error_of(response)
        raise _refused(method, path, response.status_code, body)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unavailable(
                f"the API at {self.api_url} is not reachable ({error}); is `loraledger up` running?"
            ) from error

    def get(self, path: str, **params: Any) -> Any:
        return self.request("GET", path, params=params or None)

    def all(self, path: str, **params: Any) -> list[Any]:
        """Everything of a list, page by page."""
        found: list[Any] = []
        page = {"next_cursor": ""}
        while (cursor := page["next_cursor"]) is not None:
            page = self.get(path, limit=100, **params, **({"after": cursor} if cursor else {}))
            found += page["data"]
        return found

    def post(self, path: str, body: Any = None) -> Any:
        return self.request("POST", path, json=body)

    def delete(self, path: str) -> Any:
        return self.request("DELETE", path)

    def events(self, path: str, body: Any) -> Iterator[Any]:
        """The objects of a stream, as they come. Errors: `ApiRefused`, whenever one comes."""
        with self._http.stream("POST", path, json=body) as response:
            if not response.is_success:
                response.read()
                raise _refused("POST", path, response.status_code, _error_of(response))
            for line in response.iter_lines():
                text = line.removeprefix("data: ")
                if not text or text == "[DONE]":
                    continue
                event = json.loads(text)
                if "error" in event:
                    raise _refused("POST", path, response.status_code, event["error"])
                yield event

    def sign_in(self) -> Self:
        challenge = self.post("/v1/auth/challenges", {"account": self.wallet.account})
        signature = self.wallet.sign_message(challenge["message"])
        self._keep(self.post("/v1/auth/sessions", {"message": challenge["message"], "signature": signature}))
        return self

    def _renew(self) -> None:
        """The next tokens of the session; a new session if it is over."""
        spent, self._refresh_token = self._refresh_token, ""
        try:
            self._keep(self.post("/v1/auth/refresh", {"refresh_token": spent}))
        except ApiRefused:
            self.sign_in()

    def _keep(self, session: dict[str, Any]) -> None:
        self._refresh_token = str(session["refresh_token"])
        self._http.headers["Authorization"] = f"Bearer {session['token']}"

    def find(self, path: str, seconds: float) -> Any:
        """What is at `path`, once the indexer has it: it reads the chain a moment after the sender does."""

        def found() -> Any | None:
            try:
                return self.get(path)
            except ApiRefused as refused:
                if refused.details["status"] == HTTPStatus.NOT_FOUND:
                    return None
                raise

        return until(found, path, seconds)

    def wait_for(self, queued: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
        """The relayed transaction once it is confirmed. Raises `Conflict` with the reason if it failed."""

        def confirmed() -> dict[str, Any] | None:
            transaction: dict[str, Any] = self.get(f"/v1/transactions/{queued['transaction_id']}")
            if transaction["state"] == "failed":
                raise Conflict(f"the transaction failed: {transaction['error']}")
            return transaction if transaction["state"] == "confirmed" else None

        return until(confirmed, f"transaction {queued['transaction_id']} to be confirmed", seconds)


def until(probe: Callable[[], T | None], what: str, seconds: float) -> T:
    """The first result that is not None. Errors: `Unavailable` after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := probe()) is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {seconds:.0f} s for {what}")
        time.sleep(POLL_SECONDS)
    return found


def _refused(method: str, path: str, status: int, error: dict[str, Any]) -> ApiRefused:
    text = f"{method} {path}: {error.get('message', '')}"
    details = {"status": status, "code": error.get("code"), **(error.get("details") or {})}
    return ApiRefused(text, param=error.get("param"), details=details)


def _error_of(response: Any) -> dict[str, Any]:
    try:
        body = response.json().get("error", {})
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
