"""Compilations of one client's constraints, which take up to a second each and run one after the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from inference.errors import OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from inference.protocol import Constraint
    from inference.sampling.grammar import Grammar
    from inference.tool_calls import CallGrammar

MAX_OF_PAYER = 8
"""Constraints of one payer that are compiled or wait for it: others wait behind them."""
MAX_IN_ALL = 64


class Compilations:
    """Requests with the same constraint share one compilation. Used from one event loop."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._running: dict[Constraint | CallGrammar, tuple[str, asyncio.Future[Grammar]]] = {}
        """With the payer who asked first."""

    def start(
        self,
        compile_: Callable[[Constraint | CallGrammar], Grammar],
        constraint: Constraint | CallGrammar,
        payer: str,
    ) -> asyncio.Future[Grammar]:
        """The compilation of a constraint. Await it shielded: others may wait for it. Errors:
        `OverloadedError`.
        """
        if constraint in self._running:
            return self._running[constraint][1]
        num_of_payer = sum(other == payer for other, _ in self._running.values())
        if num_of_payer >= MAX_OF_PAYER or len(self._running) >= MAX_IN_ALL:
            raise OverloadedError(len(self._running))
        compilation = asyncio.get_running_loop().run_in_executor(self._executor, compile_, constraint)
        self._running[constraint] = payer, compilation
        compilation.add_done_callback(lambda done: self._end(constraint, done))
        return compilation

    def cancel(self) -> None:
        """Cancel those that have not begun."""
        for _, compilation in list(self._running.values()):
            compilation.cancel()

    def _end(self, constraint: Constraint | CallGrammar, done: asyncio.Future[Grammar]) -> None:
        del self._running[constraint]
        if not done.cancelled():
            done.exception()  # retrieved, also if nobody waits for it any more
