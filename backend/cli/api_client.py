"""REST API client of the command line."""

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


class ApiError(Conflict):
    """The API returned an error; `details["status"]` is the HTTP status."""


class ApiClient:
    """Calls the API of one installation for one wallet. Renews the wallet's session when it expires."""

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
        """Return the response's JSON. Errors: `ApiError`, `Unavailable` if the API is not reachable."""
        response = self.send(method, path, **options)
        return response.json() if response.content else None

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Return the whole response. Errors: as `request`."""
        response = self._send_once(method, path, **options)
        has_expired = response.status_code == HTTPStatus.UNAUTHORIZED and self._refresh_token
        if has_expired and not isinstance(options.get("content"), Iterator):
            self._renew_session()
            response = self._send_once(method, path, **options)
        if response.is_success:
            return response
        body = {"message": response.text[:500]} | _error_body(response)
        raise _api_error(method, path, response.status_code, body)

    def _send_once(self, method: str, path: str, **options: Any) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unavailable(
                f"the API at {self.api_url} is not reachable ({error}); is `loraledger up` running?"
            ) from error

    def get(self, path: str, **params: Any) -> Any:
        return self.request("GET", path, params=params or None)

    def list_all(self, path: str, **params: Any) -> list[Any]:
        """Read all pages of a list."""
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

    def stream(self, path: str, body: Any) -> Iterator[Any]:
        """Yield the objects of a server-sent event stream. Errors: `ApiError`, also in mid-stream."""
        with self._http.stream("POST", path, json=body) as response:
            if not response.is_success:
                response.read()
                raise _api_error("POST", path, response.status_code, _error_body(response))
            for line in response.iter_lines():
                text = line.removeprefix("data: ")
                if not text or text == "[DONE]":
                    continue
                event = json.loads(text)
                if "error" in event:
                    raise _api_error("POST", path, response.status_code, event["error"])
                yield event

    def sign_in(self) -> Self:
        challenge = self.post("/v1/auth/challenges", {"account": self.wallet.account})
        signature = self.wallet.sign_message(challenge["message"])
        signed = {"message": challenge["message"], "signature": signature}
        self._store_session(self.post("/v1/auth/sessions", signed))
        return self

    def _renew_session(self) -> None:
        """Refresh the session's tokens; sign in again if the session has ended."""
        refresh_token, self._refresh_token = self._refresh_token, ""
        try:
            self._store_session(self.post("/v1/auth/refresh", {"refresh_token": refresh_token}))
        except ApiError:
            self.sign_in()

    def _store_session(self, session: dict[str, Any]) -> None:
        self._refresh_token = str(session["refresh_token"])
        self._http.headers["Authorization"] = f"Bearer {session['token']}"

    def wait_until_indexed(self, path: str, seconds: float) -> Any:
        """Poll `path` until it exists: the indexer sees a transaction a moment after the sender does."""

        def get() -> Any | None:
            try:
                return self.get(path)
            except ApiError as error:
                if error.details["status"] == HTTPStatus.NOT_FOUND:
                    return None
                raise

        return wait_until(get, path, seconds)

    def wait_confirmed(self, queued: dict[str, Any], seconds: float = 120) -> dict[str, Any]:
        """Poll a relayed transaction until it is confirmed. Errors: `Conflict` if it fails."""

        def confirmed() -> dict[str, Any] | None:
            transaction: dict[str, Any] = self.get(f"/v1/transactions/{queued['transaction_id']}")
            if transaction["state"] == "failed":
                raise Conflict(f"the transaction failed: {transaction['error']}")
            return transaction if transaction["state"] == "confirmed" else None

        return wait_until(confirmed, f"transaction {queued['transaction_id']} to be confirmed", seconds)


def wait_until(probe: Callable[[], T | None], what: str, seconds: float) -> T:
    """Poll until `probe` returns something other than None. Errors: `Unavailable` after `seconds`."""
    deadline = time.monotonic() + seconds
    while (found := probe()) is None:
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {seconds:.0f} s for {what}")
        time.sleep(POLL_SECONDS)
    return found


def _api_error(method: str, path: str, status: int, error: dict[str, Any]) -> ApiError:
    text = f"{method} {path}: {error.get('message', '')}"
    details = {"status": status, "code": error.get("code"), **(error.get("details") or {})}
    return ApiError(text, param=error.get("param"), details=details)


def _error_body(response: Any) -> dict[str, Any]:
    try:
        body = response.json().get("error", {})
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
