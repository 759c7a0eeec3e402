"""JSON-RPC over HTTP. Quantities and bytes stay in the node's encoding."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import requests
from web3 import HTTPProvider
from web3.exceptions import Web3ValueError
from web3.providers.rpc.utils import ExceptionRetryConfiguration

from backend.domain.errors import Unavailable
from backend.metrics import RPC_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from web3.types import RPCEndpoint

TIMEOUT_SECONDS = 30
MAX_BATCH = 50
"""Requests that are sent at once; many servers take 100 at most."""
TRANSPORT_ERRORS = (requests.ConnectionError, requests.Timeout, requests.HTTPError)


class RpcError(Exception):
    """The node responded with an error object."""

    def __init__(self, method: str, error: dict[str, Any]) -> None:
        self.method = method
        self.message = str(error.get("message", ""))
        super().__init__(f"{method}: {self.message}")
        data = error.get("data")
        data = data.get("data") if isinstance(data, dict) else data
        self.revert_data = bytes.fromhex(data[2:]) if isinstance(data, str) and data.startswith("0x") else b""
        self.is_revert = bool(self.revert_data) or "revert" in self.message.lower()
        """False if the node could not run the call."""


@contextmanager
def node_errors() -> Iterator[None]:
    """Turn a node's `RpcError` into `Unavailable`, so that the caller retries."""
    try:
        yield
    except RpcError as error:
        raise Unavailable(f"the chain's node refuses: {error}") from error


@contextmanager
def _counted(method: str, count: int = 1) -> Iterator[None]:
    """Count requests by their outcome."""
    outcome = "unreachable"
    try:
        yield
        outcome = "answered"
    except RpcError:
        outcome = "refused"
        raise
    finally:
        RPC_REQUESTS.labels(method, outcome).inc(count)


class Rpc:
    """One endpoint. web3's provider retries transport errors, but of batches; a response of the node is never
    retried.
    """

    def __init__(self, url: str, retries: int = 4, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        parts = urlsplit(url)
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        """URL for messages, without user, path and query, which often contain API keys."""
        self._session = requests.Session()
        # A proxy from the environment cannot reach this machine's loopback.
        self._session.trust_env = parts.hostname not in {"127.0.0.1", "::1", "localhost"}
        self._provider = HTTPProvider(
            url,
            request_kwargs={"timeout": timeout_seconds},
            session=self._session,
            exception_retry_configuration=ExceptionRetryConfiguration(
                errors=TRANSPORT_ERRORS, retries=retries
            ),
        )

    def request(self, method: str, *params: Any) -> Any:
        """Send a request. Errors: `RpcError` for an error object, `Unavailable` without a response."""
        with _counted(method):
            sent = self._send(method, self._provider.make_request, cast("RPCEndpoint", method), params)
            return self._result(method, sent)

    def batch(self, method: str, params: Sequence[Sequence[Any]]) -> list[Any]:
        """Send requests of one method, up to `MAX_BATCH` at once, and return the results in their order.

        Errors: as of `request`; also `RpcError` for a server that refuses so many at once. One is sent alone.
        """
        if len(params) == 1:
            return [self.request(method, *params[0])]
        results: list[Any] = []
        for start in range(0, len(params), MAX_BATCH):
            with _counted(method, len(params[start : start + MAX_BATCH])):
                results += self._batch(method, params[start : start + MAX_BATCH])
        return results

    def _batch(self, method: str, params: Sequence[Sequence[Any]]) -> list[Any]:
        calls = [(cast("RPCEndpoint", method), each) for each in params]
        responses = self._send(method, self._post_batch, calls)
        if isinstance(responses, list) and len(responses) == len(params):
            return [self._result(method, response) for response in responses]
        if isinstance(responses, list):  # geth refuses a batch as if it were its first request
            responses = next((each for each in responses if isinstance(each, dict)), responses)
        self._result(method, responses)  # the error of the batch as a whole
        raise self._not_json_rpc(method)

    def _post_batch(self, calls: list[tuple[RPCEndpoint, Any]]) -> Any:
        try:
            return self._provider.make_batch_request(calls)
        except requests.HTTPError as error:  # as some servers refuse so many requests at once
            return {"error": {"message": f"HTTP status {getattr(error.response, 'status_code', '')}"}}

    def _send(self, method: str, send: Callable[..., Any], *call: Any) -> Any:
        try:
            return send(*call)
        except TRANSPORT_ERRORS as error:
            raise Unavailable(
                f"the chain's RPC at {self.name} is not reachable; is the node running?",
                details={"method": method, "reason": type(error).__name__},
            ) from error
        # web3 sorts the responses of a batch by their ids, and raises these if they have none.
        except (AttributeError, TypeError, ValueError, Web3ValueError) as error:
            raise self._not_json_rpc(method) from error

    def _result(self, method: str, response: Any) -> Any:
        if not isinstance(response, dict) or not response.keys() & {"error", "result"}:
            raise self._not_json_rpc(method)
        if response.get("error"):
            raise RpcError(method, response["error"])
        return response["result"]

    def _not_json_rpc(self, method: str) -> Unavailable:
        return Unavailable(
            f"the server at {self.name} does not speak JSON-RPC; is it the URL of a node?",
            details={"method": method},
        )

    def close(self) -> None:
        self._session.close()
