"""Port of the inference engine, in messages of `inference.protocol`. The engine knows nothing of money."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Protocol, Self

from backend.domain.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from backend.domain.ids import Hash32
    from inference.protocol import Chunk, CountTokens, Generate, TokenCount


class InvalidSchema(InvalidInput):
    """The engine does not support this JSON schema; the message says where in the schema."""


class InvalidToolSchema(InvalidInput):
    """The engine does not support the schema of a function; the message says which, and where in it."""


class UnsupportedReasoning(InvalidInput):
    """The model's chat template has no place for a reasoning effort."""


class EngineUnavailable(Unavailable):
    """The engine is down, restarts, or ended during the request. Clients may retry."""

    @classmethod
    def because(cls, reason: str) -> Self:
        return cls(f"the inference engine is not available: {reason}; try again shortly")


class EngineUnreachable(EngineUnavailable):
    """The engine accepts no connection. Any other failure may concern a single request."""

    @property
    def code(self) -> str:
        """The difference matters to the watchdog, not to clients."""
        return "engine_unavailable"


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine serves now. An engine that is not reachable serves nothing."""

    active_adapters: frozenset[Hash32] = frozenset()
    """Digests of the adapters in device slots, which answer without a load."""
    max_context: int | None = None
    """Tokens that prompt and answer share."""
    weight_format: str | None = None
    """Of the base model: `fp32`, `bf16`, `fp16` or `int8`. None if the server does not state it."""


def active_adapters(engines: Mapping[Hash32, EngineState]) -> frozenset[Hash32]:
    """Digests of the adapters that any of the engines has loaded."""
    return frozenset(chain.from_iterable(state.active_adapters for state in engines.values()))


class MalformedMetrics(Unavailable):
    """A server's metrics are not in Prometheus' text format; the message says which server and where."""


class Engine(Protocol):
    """Errors of all methods: `EngineUnavailable` and `Overloaded` where another engine may answer, another
    `Unavailable` where only a later retry may help, `InvalidInput` for a bad request.
    """

    async def count_tokens(self, request: CountTokens) -> TokenCount:
        """Count the prompt tokens of a chat or of raw text. `request.request_id` is not used.
        Errors: `UnsupportedReasoning` too.
        """
        ...

    def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        """Stream an answer; the last chunk has a finish reason. Errors: `InvalidSchema` and
        `InvalidToolSchema` too.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """End a request: its last chunk has the finish reason `abort`. Unknown ids are ignored."""
        ...

    async def state(self) -> EngineState: ...

    async def metrics(self, deadline_seconds: float) -> str:
        """Return the engine's metrics in Prometheus' text format. Errors: `MalformedMetrics` too."""
        ...
