"""Compilations of one client's constraints, which take up to a second each and run one after the other."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeAlias

from inference.errors import InferenceError, OverloadedError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from inference.sampling.grammar import AnyConstraint, Grammar

    Compiled: TypeAlias = asyncio.Future[Grammar]

MAX_OF_PAYER = 64
"""Constraints of one payer that are compiled or wait for it."""


class Compilations:
    """Payers take turns, and a payer's requests with the same constraint share one compilation. Used from one
    event loop.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._pending: OrderedDict[str, dict[AnyConstraint, Compiled]] = OrderedDict()
        """By payer, the one whose turn is next first."""
        self._is_running = False

    def start(
        self, compile_: Callable[[AnyConstraint, str], Grammar], constraint: AnyConstraint, payer: str
    ) -> Compiled:
        """The compilation of a constraint. Await it shielded: others may wait for it. Errors:
        `OverloadedError`.
        """
        of_payer = self._pending.setdefault(payer, {})
        if constraint not in of_payer:
            if len(of_payer) >= MAX_OF_PAYER:
                raise OverloadedError(len(of_payer))
            of_payer[constraint] = asyncio.get_running_loop().create_future()
        compiled = of_payer[constraint]
        if not self._is_running:
            self._is_running = True
            self._run_next(compile_)
        return compiled

    def cancel(self) -> None:
        """Cancel all; one that has begun runs on, and its result is dropped."""
        for compiled in [each for of_payer in self._pending.values() for each in of_payer.values()]:
            compiled.cancel()

    def _run_next(self, compile_: Callable[[AnyConstraint, str], Grammar]) -> None:
        self._drop_cancelled()
        if not self._pending:
            self._is_running = False
            return
        payer, of_payer = next(iter(self._pending.items()))
        constraint, compiled = next(iter(of_payer.items()))

        def end(done: Compiled) -> None:
            if not compiled.done():
                _copy(done, compiled)
            of_payer.pop(constraint, None)
            if of_payer:
                self._pending.move_to_end(payer)
            else:
                self._pending.pop(payer, None)
            self._run_next(compile_)

        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._executor, compile_, constraint, payer).add_done_callback(end)

    def _drop_cancelled(self) -> None:
        for payer, of_payer in list(self._pending.items()):
            for constraint in [known for known, compiled in of_payer.items() if compiled.cancelled()]:
                del of_payer[constraint]
            if not of_payer:
                del self._pending[payer]


def _copy(done: Compiled, to: Compiled) -> None:
    if done.cancelled():  # the executor was shut down
        to.set_exception(InferenceError("the engine is stopping"))
    elif (error := done.exception()) is not None:
        to.set_exception(error)
        to.exception()  # marks the error as retrieved: asyncio would log it if no request awaits it
    else:
        to.set_result(done.result())
