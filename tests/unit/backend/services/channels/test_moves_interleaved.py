"""Moves among answers, blocks, reorganisations and deadlines in any order."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.domain.errors import DatabaseUnavailable, PaymentRequired
from backend.domain.transactions import TransactionState
from backend.services.channels.admission import Admission, Payer
from backend.services.channels.moves import (
    LEAST_MOVE,
    MOVE_SECONDS,
    MovePending,
    MoveTerms,
    NothingToMove,
    _spare,
)
from tests.support.databases import ViewDatabase, impatient_database
from tests.support.fakes import NOW, some_key
from tests.support.move_harness import MoveHarness, X

if TYPE_CHECKING:
    import pytest

    from backend.domain.channels import Move
    from backend.domain.serving import Reservation
    from backend.services.channels.balance import ChannelBalance


def test_moves_and_answers_at_the_same_time_never_take_the_same_amount(any_harness: MoveHarness) -> None:
    harness = any_harness
    harness.installation.fund(20 * X)
    terms = [harness.terms(max_amount=count * X) for count in range(1, 5)]

    def move(one: MoveTerms) -> int:
        try:
            return harness.relay(one).amount
        except (MovePending, NothingToMove):
            return 0

    def reserve(_: int) -> int:
        try:
            return asyncio.run(harness.installation.admitting.reserve(harness.payer, X)).amount
        except PaymentRequired:
            return 0

    with ThreadPoolExecutor(8) as threads:
        moved, reserved = threads.map(move, terms), threads.map(reserve, range(30))
        taken = [list(moved), list(reserved)]
    assert len(list(filter(None, taken[0]))) <= 1
    assert sum(taken[0]) + sum(taken[1]) == 20 * X
    assert harness.balance.available == 0


def test_no_answer_is_admitted_between_the_reading_of_the_balance_and_the_move(
    any_harness: MoveHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness, installation = any_harness, any_harness.installation
    installation.fund(20 * X)
    terms = harness.terms(max_amount=20 * X)
    amounts: list[int] = []
    reserved: list[int] = []

    def reserve_once_the_balance_is_read(balance: ChannelBalance, wanted: MoveTerms) -> int:
        amounts.append(_spare(balance, wanted))
        if len(amounts) == 2:  # the first one is read before the move holds any lock
            reserved.extend(reserve_without_waiting(harness, 20 * X))
        return amounts[-1]

    monkeypatch.setattr("backend.services.channels.moves._spare", reserve_once_the_balance_is_read)
    moved = harness.relay(terms).amount
    assert amounts == [20 * X] * 2
    assert (moved, reserved) == (20 * X, [])
    assert harness.balance.available == 0


def reserve_without_waiting(harness: MoveHarness, amount: int) -> list[int]:
    """What another process reserves, which gives up where it would have to wait for a lock."""
    installation = harness.installation
    with closing(impatient_database(installation.database)) as database:
        admission = Admission(
            ViewDatabase(database, installation.view),
            installation.counterparty,
            lambda _: installation.receipt_key,
            installation.clock,
            900,
            60,
        )
        with suppress(DatabaseUnavailable):
            return [asyncio.run(admission.reserve(harness.payer, amount)).amount]
    return []


@dataclass
class TrueChain:
    """The channel on the chain, of which the installation's view is an earlier or removed state."""

    balance: int
    collected: int = 0
    nonce: int = 0
    done: list[Move] = field(default_factory=list)
    """Moves that took place, oldest first."""
    shown: int = 0
    """How many of them are indexed."""


class Interleaving:
    """Takes steps, after each of which the channel covers what it owes and may come to owe."""

    def __init__(self, harness: MoveHarness, balance: int) -> None:
        self.harness, self.chain = harness, TrueChain(balance)
        self.held: list[Reservation] = []
        self.sent: list[Move] = []
        """Moves that may still take place."""

    def reserve(self, amount: int) -> None:
        self.held.append(self.harness.reserve(amount))

    def settle(self, amount: int) -> None:
        if self.held:
            reservation = self.held.pop(0)
            self.harness.charge(reservation, min(amount, reservation.amount))

    def release(self, _: int) -> None:
        if self.held:
            self.harness.installation.admission.release(self.held.pop())

    def move(self, amount: int) -> None:
        self.harness.vault.nonce = self.chain.nonce
        self.sent.append(self.harness.move(amount + LEAST_MOVE))

    def mine(self, _: int) -> None:
        if self.sent and self.sent[0].nonce == self.chain.nonce:
            move = self.sent.pop(0)
            self.harness.confirm(move)
            self.chain.done.append(move)
            self.chain.balance -= move.amount
            self.chain.nonce += 1

    def use_nonce(self, _: int) -> None:
        """A grant uses the payer's nonce, so that a pending move fails."""
        self.chain.nonce += 1
        for move in [move for move in self.sent if move.nonce < self.chain.nonce]:
            self.sent.remove(move)
            if self.harness.transaction(move).state is not TransactionState.CONFIRMED:
                self.harness.fail(move)

    def index(self, _: int) -> None:
        chain, last = self.chain, self.chain.done[-1].nonce + 1 if self.chain.done else 0
        chain.shown = len(chain.done)
        self.harness.show(balance=chain.balance, collected=chain.collected, next_move_nonce=last)

    def reorganise(self, _: int) -> None:
        """The last move is removed, waits in the pool again, and the installation sees it removed."""
        if self.chain.done and self.chain.nonce == self.chain.done[-1].nonce + 1:
            move = self.chain.done.pop()
            self.chain.balance += move.amount
            self.chain.nonce = move.nonce
            self.sent.insert(0, move)
            self.index(0)

    def collect(self, _: int) -> None:
        charged = self.harness.balance.charged
        self.chain.balance -= charged - self.chain.collected
        self.chain.collected = charged
        self.index(0)

    def pass_deadline(self, _: int) -> None:
        self.harness.installation.clock.pass_seconds(MOVE_SECONDS + 1)
        self.held, self.sent = [], []
        self.index(0)

    def check(self) -> None:
        found = self.harness.balance
        owed = found.charged - self.chain.collected + found.reserved
        assert owed + sum(move.amount for move in self.sent) <= self.chain.balance

    def check_nothing_is_stranded(self) -> None:
        self.pass_deadline(0)
        found = self.harness.balance
        assert (found.moving, found.reserved) == (0, 0)
        assert found.available == self.chain.balance - (found.charged - self.chain.collected)


STEPS = ("reserve", "settle", "release", "move", "mine", "use_nonce", "index", "reorganise", "collect")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    balance=st.integers(0, 12 * X),
    steps=st.lists(st.tuples(st.sampled_from((*STEPS, "pass_deadline")), st.integers(1, 5 * X)), max_size=14),
)
def test_whatever_happens_the_channel_covers_what_it_owes_and_nothing_is_stranded(
    harness: MoveHarness, balance: int, steps: list[tuple[str, int]]
) -> None:
    installation = harness.installation
    installation.payer = some_key(f"payer {balance} {steps}")
    harness.payer = Payer(installation.payer.account)
    installation.channel = installation.counterparty.channel(harness.payer.account)
    installation.fund(balance, cap=100 * X)
    installation.clock.now, harness.vault.nonce = NOW, 0
    world = Interleaving(harness, balance)
    for name, amount in steps:
        try:
            getattr(world, name)(amount)
        except (PaymentRequired, NothingToMove, MovePending):
            continue
        world.check()
    world.check_nothing_is_stranded()
