"""One round of an attack: a wrong batch, its fall, and what an honest operator can do after it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.settlement import BatchState
from tools.attack.stage import WATCHER, Forgery, StageError
from tools.local_market import CONTRIBUTORS

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.batch import Header
    from backend.domain.settlement import CommittedBatch
    from tools.attack.stage import Stage
    from tools.attack.ways import Way

ROUND_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Round:
    """What became of it. Bonds in token units."""

    way: str
    proof: str
    """By which the batch fell; empty if it stood."""
    seconds: float
    """From the commitment to the last refund, or to the verdict that it is right."""
    num_leaves: int
    """Leaves that were demanded and shown."""
    paid_units: int
    """What a contributor then got by a claim."""


def play(stage: Stage, way: Way, is_right: Callable[[Header], bool], step: Callable[[], object]) -> Round:
    """`is_right`: whether the watcher called a batch right; `step` lets it, or time, go on.

    Errors: `StageError` that says what did not happen.
    """
    before = stage.channels()
    honest = stage.build(stage.serve_round())
    forgery = way.forge(stage, honest)
    header = stage.commit(forgery)
    started = time.monotonic()
    fell, num_leaves = _wait(stage, forgery, header, way, lambda: is_right(header), step)
    seconds = time.monotonic() - started
    if way.proofs:
        _check_fall(way, fell)
        if (after := stage.channels()) != before:
            raise StageError(f"the channels are {after}, not {before}")
        header = stage.commit(Forgery.of(honest))
        _until(lambda: is_right(header), step, "the honest batch to be called right")
    stage.finalise(honest, header)
    due, paid = stage.claim(CONTRIBUTORS[0].account)
    if not due or paid != due:
        raise StageError(f"a contributor got {paid} units, not {due}")
    return Round(way.name, fell.conviction.proof if fell.conviction else "", seconds, num_leaves, paid)


def _wait(
    stage: Stage,
    forgery: Forgery,
    header: Header,
    way: Way,
    is_right: Callable[[], bool],
    step: Callable[[], object],
) -> tuple[CommittedBatch, int]:
    """The batch once it fell and is refunded, or is called right; how many leaves were shown by then."""
    num_leaves = 0
    until = time.monotonic() + ROUND_SECONDS
    while time.monotonic() < until:
        step()
        if forgery.does_answer:
            num_leaves += stage.answer(forgery)
        found = stage.batch(header.hash)
        if found.state is BatchState.VOID and found.is_refunded:
            return found, num_leaves
        if is_right():
            if way.proofs:
                raise StageError("the watcher calls a wrong batch right")
            return found, num_leaves
        if stage.chain.head().timestamp >= header.final_at:
            break
    raise StageError("nobody caught the batch in time" if way.proofs else "the batch was not called right")


def _check_fall(way: Way, fell: CommittedBatch) -> None:
    conviction = fell.conviction
    if conviction is None or conviction.proof not in way.proofs:
        raise StageError(f"it fell by {conviction}, not by {' or '.join(way.proofs)}")
    if conviction.challenger != WATCHER.account:
        raise StageError(f"the challenger's part went to {conviction.challenger}")


def _until(probe: Callable[[], bool], step: Callable[[], object], what: str) -> None:
    until = time.monotonic() + ROUND_SECONDS
    while not probe():
        if time.monotonic() > until:
            raise StageError(f"waited {ROUND_SECONDS:.0f} s for {what}")
        step()
