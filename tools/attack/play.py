"""Plays one attack: a wrong batch, its conviction, and an honest batch after it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.settlement import BatchState
from tools.attack import floods
from tools.attack.attack_market import WATCHER, AttackMarketError, Forgery
from tools.local_market import CONTRIBUTORS, OPERATOR

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.batch import Header
    from backend.domain.settlement import CommittedBatch
    from tools.attack.attack_market import AttackMarket
    from tools.attack.attacks import Attack

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
    """Leaves that were demanded of the market and opened."""
    bonds: int
    """Wei that the attackers paid for demands of their own."""
    paid_units: int
    """Token units that a contributor then received by a claim."""


def play(
    market: AttackMarket, attack: Attack, is_right: Callable[[Header], bool], step: Callable[[], object]
) -> Round:
    """Run one attack. `is_right` tells whether the watcher reported a batch as right; `step` waits.

    Errors: `AttackMarketError` with the expectation that failed.
    """
    before = market.channels()
    honest = market.build(attack.serve(market))
    forgery = attack.forge(market, honest)
    header = market.commit(forgery)
    started, credit, bonds = time.monotonic(), market.credit(OPERATOR.account), 0
    if attack.demand is not None:
        attack.demand(market, header)
        bonds = sum(one.bond for one in market.open_demands())
    ended, num_leaves = _wait(market, forgery, header, attack, lambda: is_right(header), step)
    seconds = time.monotonic() - started
    if attack.proofs:
        _check_conviction(attack, ended)
        if (after := market.channels()) != before:
            raise AttackMarketError(f"the channels are {after}, not {before}")
        header = market.commit(Forgery.of(honest))
        _until(lambda: is_right(header), step, "the watcher to report the honest batch as right")
    else:
        _until(lambda: not market.open_demands(), step, "the operator to answer all demands")
        if attack.demand is not None:
            floods.check_paid(market, bonds, credit)
    market.finalise(honest, header)
    due, paid = market.claim(CONTRIBUTORS[0].account)
    if not due or paid != due:
        raise AttackMarketError(f"a contributor received {paid} units, not {due}")
    proof = ended.conviction.proof if ended.conviction else ""
    return Round(attack.name, proof, seconds, num_leaves, bonds, paid)


def _wait(
    market: AttackMarket,
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
            num_leaves += market.answer(forgery)
        found = market.batch(header.hash)
        if found.state is BatchState.VOID and found.is_refunded:
            return found, num_leaves
        if is_right():
            if attack.proofs:
                raise AttackMarketError("the watcher reports a wrong batch as right")
            return found, num_leaves
        if market.chain.head().timestamp >= header.final_at:
            break
    raise AttackMarketError(
        "the batch was not convicted in time" if attack.proofs else "the batch was not reported as right"
    )


def _check_conviction(attack: Attack, batch: CommittedBatch) -> None:
    conviction = batch.conviction
    if conviction is None or conviction.proof not in attack.proofs:
        raise AttackMarketError(f"it was convicted by {conviction}, not by {' or '.join(attack.proofs)}")
    if conviction.challenger != WATCHER.account:
        raise AttackMarketError(f"the challenger's part went to {conviction.challenger}")


def _until(probe: Callable[[], bool], step: Callable[[], object], what: str) -> None:
    until = time.monotonic() + ROUND_SECONDS
    while not probe():
        if time.monotonic() > until:
            raise AttackMarketError(f"waited {ROUND_SECONDS:.0f} s for {what}")
        step()
