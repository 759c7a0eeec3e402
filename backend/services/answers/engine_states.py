"""What the engines serve now, for lists of models and operators."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from backend.domain.errors import Unavailable
from backend.ports.engine import EngineState
from backend.services.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backend.domain.ids import Hash32
    from backend.ports.engine import Engine


class EngineStates:
    """Asks each engine once for all who wait, and keeps the answers for some seconds: anyone may ask for the
    lists, and an engine may take long to answer. Used from one event loop.
    """

    def __init__(
        self,
        engines: Mapping[Hash32, Engine],
        kept_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engines = engines
        self._asked = SingleFlight(self._ask, kept_seconds, clock)

    async def get(self) -> Mapping[Hash32, EngineState]:
        """By base model; nothing of an engine that is unreachable."""
        return await self._asked.get()

    async def _ask(self) -> dict[Hash32, EngineState]:
        states = await asyncio.gather(*map(_state, self._engines.values()))
        return dict(zip(self._engines, states, strict=True))


async def _state(engine: Engine) -> EngineState:
    try:
        return await engine.state()
    except Unavailable:
        return EngineState()
