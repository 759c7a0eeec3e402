"""Plays one attack: a wrong batch, its conviction, and an honest batch after it."""

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
    from tools.attack.attacks import Attack
    from tools.attack.stage import Stage

ROUND_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Round:
    """Result of one attack."""

    attack: str
    proof: str
    """The fraud proof that convicted the batch; empty if it became final."""
    seconds: float
    """Time from the commit to the last refund, or to the report that the batch is right."""
    num_leaves: int
    """Leaves that were demanded and opened."""
    paid_units: int
    """Token units that a contributor then received by a claim."""


def play(
    stage: Stage, attack: Attack, is_right: Callable[[Header], bool], step: Callable[[], object]
) -> Round:
    """Run one attack. `is_right` tells whether the watcher reported a batch as right; `step` waits.

    Errors: `StageError` with the expectation that failed.
    """
    before = stage.channels()
    honest = stage.build(stage.serve_round())
    forgery = attack.forge(stage, honest)
    header = stage.commit(forgery)
    started = time.monotonic()
    ended, num_leaves = _wait(stage, forgery, header, attack, lambda: is_right(header), step)
    seconds = time.monotonic() - started
    if attack.proofs:
        _check_conviction(attack, ended)
        if (after := stage.channels()) != before:
            raise StageError(f"the channels are {after}, not {before}")
        header = stage.commit(Forgery.of(honest))
        _until(lambda: is_right(header), step, "the watcher to report the honest batch as right")
    stage.finalise(honest, header)
    due, paid = stage.claim(CONTRIBUTORS[0].account)
    if not due or paid != due:
        raise StageError(f"a contributor received {paid} units, not {due}")
    return Round(attack.name, ended.conviction.proof if ended.conviction else "", seconds, num_leaves, paid)


def _wait(
    stage: Stage,
    forgery: Forgery,
    header: Header,
    attack: Attack,
    is_right: Callable[[], bool],
    step: Callable[[], object],
) -> tuple[CommittedBatch, int]:
    """Wait until the batch is void and refunded, or reported as right; the batch and the opened leaves."""
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
            if attack.proofs:
                raise StageError("the watcher reports a wrong batch as right")
            return found, num_leaves
        if stage.chain.head().timestamp >= header.final_at:
            break
    raise StageError(
        "the batch was not convicted in time" if attack.proofs else "the batch was not reported as right"
    )


def _check_conviction(attack: Attack, batch: CommittedBatch) -> None:
    conviction = batch.conviction
    if conviction is None or conviction.proof not in attack.proofs:
        raise StageError(f"it was convicted by {conviction}, not by {' or '.join(attack.proofs)}")
    if conviction.challenger != WATCHER.account:
        raise StageError(f"the challenger's part went to {conviction.challenger}")


def _until(probe: Callable[[], bool], step: Callable[[], object], what: str) -> None:
    until = time.monotonic() + ROUND_SECONDS
    while not probe():
        if time.monotonic() > until:
            raise StageError(f"waited {ROUND_SECONDS:.0f} s for {what}")
        step()
