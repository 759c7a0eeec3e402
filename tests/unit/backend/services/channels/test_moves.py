from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.db.serving import ChannelStore
from backend.domain.chain import Reverted
from backend.domain.errors import InvalidInput, PaymentRequired
from backend.domain.hashing import slices_hash
from backend.domain.ids import ZERO_ACCOUNT
from backend.domain.money import AMOUNT, PPM
from backend.domain.receipt import Slice
from backend.domain.transactions import TransactionState
from backend.services.channels.admission import Bill, Payer
from backend.services.channels.balance import ViewStale
from backend.services.channels.deposits import NO_GRANT, Grant
from backend.services.channels.ledger import InsufficientBalance
from backend.services.channels.moves import (
    LEAST_MOVE,
    LONGEST_MOVE_SECONDS,
    MOVE_SECONDS,
    MovePending,
    MoveTerms,
    NothingToMove,
)
from tests.support.fakes import EXPIRY, NOW, FakeChain, some_key
from tests.support.market import some_account, some_hash
from tests.support.scripted_installation import ScriptedInstallation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.channels import Move
    from backend.domain.serving import Reservation
    from backend.domain.transactions import ChainTransaction, PreparedTransaction
    from backend.services.channels.balance import ChannelBalance

SIGNATURE = "0x" + "11" * 65
NEXT = some_account("next settlement")
X = LEAST_MOVE
"""Unit of these tests' amounts."""
NUMBERS = itertools.count()


class VaultChain(FakeChain):
    """The payer's next nonce, which a call of the vault must have."""

    nonce = 0

    def call(self, contract: str, function: str, *args: Any, block: int | None = None) -> Any:
        return self.nonce if function == "nonces" else super().call(contract, function, *args, block=block)

    def prepare(self, contract: str, function: str, *args: Any, **options: Any) -> PreparedTransaction:
        if function == "moveBalance" and int(args[1]["nonce"]) != self.nonce:
            raise Reverted("InvalidAccountNonce", error="InvalidAccountNonce", args_by_name={})
        return super().prepare(contract, function, *args, **options)


class MoveHarness:
    """An installation whose sender and indexer the test replaces."""

    def __init__(self, folder: Path, database: Database) -> None:
        self.vault = VaultChain()
        self.installation = ScriptedInstallation(folder, database, self.vault)
        self.moves = self.installation.services.moves
        self.payer = Payer(self.installation.payer.account)

    def terms(self, max_amount: int | None = None) -> MoveTerms:
        terms, _ = self.moves.prepare(self.payer.account, NEXT, max_amount)
        return terms

    def move(self, max_amount: int | None = None) -> Move:
        return self.relay(self.terms(max_amount))

    def relay(self, terms: MoveTerms) -> Move:
        return self.moves.relay(self.payer.account, terms, SIGNATURE)

    def reserve(self, amount: int) -> Reservation:
        return self.installation.admission.reserve(self.payer, amount)

    def charge(self, reservation: Reservation, charge: int) -> None:
        slices = (Slice(self.installation.base_version, PPM, ()),)
        bill = Bill(
            charge=charge,
            request_hash=some_hash(f"request {next(NUMBERS)}"),
            response_hash=some_hash("response"),
            slices=slices,
            slices_hash=slices_hash(slices),
            method="none",
            attribution_hash=some_hash("attribution"),
            prompt_tokens=1,
            completion_tokens=1,
            salt=some_hash("salt"),
        )
        self.installation.admission.charge(self.payer, reservation, bill)

    @property
    def balance(self) -> ChannelBalance:
        shown = self.installation.services.channels.get(self.payer.account, self.installation.channel)
        return shown.balance

    def transaction(self, move: Move) -> ChainTransaction:
        with self.installation.read() as tx:
            return tx.transactions.get(move.transaction_id)

    def queued(self) -> list[ChainTransaction]:
        with self.installation.read() as tx:
            return tx.transactions.not_failed(self.installation.operator, "PaymentVault", "moveBalance")

    def fail(self, move: Move) -> None:
        with self.installation.begin() as tx:
            tx.transactions.mark_failed(move.transaction_id, {"error": "Reverted", "message": "", "args": {}})

    def confirm(self, move: Move) -> None:
        """The transaction is confirmed, and not indexed yet."""
        self.vault.nonce = move.nonce + 1
        with self.installation.begin() as tx:
            tx.transactions.mark_mined(move.transaction_id, some_hash("move"), 8, some_hash("block 8"))
            tx.transactions.mark_confirmed(move.transaction_id)

    def show(self, **changes: int) -> None:
        view, channel = self.installation.view, self.installation.channel
        view.channels[channel] = replace(view.channels[channel], **changes)


@pytest.fixture
def harness(tmp_path: Path, sqlite_database: Database) -> MoveHarness:
    return MoveHarness(tmp_path, sqlite_database)


@pytest.fixture
def any_harness(tmp_path: Path, database: Database) -> MoveHarness:
    """On SQLite and on PostgreSQL."""
    return MoveHarness(tmp_path, database)


def test_the_payer_signs_what_the_vault_checks(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    grant = Grant(some_account("session key"), 5 * X, EXPIRY)
    terms, typed_data = harness.moves.prepare(harness.payer.account, NEXT, 3 * X, grant)
    assert terms == MoveTerms(NEXT, 3 * X, grant, 0, int(NOW.timestamp()) + MOVE_SECONDS)
    assert typed_data["primaryType"] == "ChannelMove"
    assert typed_data["message"] == {
        "payer": harness.payer.account,
        "operator": harness.installation.operator,
        "collector": harness.installation.settlement,
        "newCollector": NEXT,
        "maxAmount": str(3 * X),
        "key": grant.key,
        "cap": str(5 * X),
        "expiry": str(EXPIRY),
        "nonce": "0",
        "deadline": str(terms.deadline),
    }
    assert typed_data["domain"]["verifyingContract"] == some_account("PaymentVault")


def test_all_moves_but_what_is_charged_and_not_collected_reserved_or_thawing(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X, thawing=X)
    harness.charge(harness.reserve(3 * X), 2 * X)
    harness.reserve(3 * X)
    move = harness.move()
    assert move.amount == 4 * X
    transaction = harness.transaction(move)
    assert (transaction.lane, transaction.contract) == (harness.installation.operator, "PaymentVault")
    payer, consent, amount, signature = transaction.args
    assert (payer, amount, signature) == (harness.payer.account, str(4 * X), SIGNATURE)
    assert consent["grant"] == NO_GRANT.as_argument()
    assert (consent["collector"], consent["newCollector"]) == (harness.installation.settlement, NEXT)
    with harness.installation.read() as tx:
        assert tx.transactions.is_requested(harness.payer.account, move.transaction_id)


def test_what_was_collected_is_not_left_behind(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    harness.charge(harness.reserve(3 * X), 3 * X)
    harness.show(balance=8 * X, collected=2 * X)
    assert harness.move().amount == 7 * X


def test_no_more_than_the_payers_maximum_moves(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    assert harness.move(3 * X).amount == 3 * X
    assert harness.balance.available == 7 * X


def test_a_moving_amount_cannot_be_spent_before_and_after_the_chain_shows_the_move(
    harness: MoveHarness,
) -> None:
    harness.installation.fund(10 * X)
    harness.charge(harness.reserve(X), X)
    move = harness.move(6 * X)

    def check(moving: int) -> None:
        assert (harness.balance.moving, harness.balance.available) == (moving, 3 * X)
        with pytest.raises(InsufficientBalance):
            harness.reserve(3 * X + 1)

    check(moving=6 * X)
    harness.confirm(move)
    check(moving=6 * X)
    harness.show(balance=4 * X, next_move_nonce=1)
    check(moving=0)
    harness.show(balance=10 * X, next_move_nonce=0)  # a reorganisation
    check(moving=6 * X)


def test_a_move_that_failed_for_good_can_be_spent_again(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    move = harness.move()
    assert harness.balance.available == 0
    harness.fail(move)
    assert harness.balance.available == 10 * X


def test_a_move_is_over_once_the_indexed_chain_has_passed_its_deadline(harness: MoveHarness) -> None:
    """Its transaction may still be queued, or be confirmed and removed by a reorganisation."""
    harness.installation.fund(10 * X)
    harness.confirm(harness.move())
    view, clock = harness.installation.view, harness.installation.clock
    clock.pass_seconds(MOVE_SECONDS + 1)
    view.lag_seconds = 1
    assert harness.balance.available == 0
    view.lag_seconds = 0
    assert harness.balance.available == 10 * X
    harness.vault.nonce = 0
    assert harness.move().amount == 10 * X


def test_a_block_that_is_indexed_while_balances_are_read_ends_no_move_that_they_do_not_show(
    harness: MoveHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.installation.fund(10 * X)
    harness.confirm(harness.move())
    view, known_channels = harness.installation.view, harness.installation.view.known_channels

    def indexed_afterwards(channels: Any) -> Any:
        found = known_channels(channels)
        harness.show(balance=0, next_move_nonce=1)
        harness.installation.clock.pass_seconds(MOVE_SECONDS + 1)
        return found

    monkeypatch.setattr(view, "known_channels", indexed_afterwards)
    assert harness.balance.available == 0


def test_the_same_request_again_is_the_same_move(any_harness: MoveHarness) -> None:
    harness = any_harness
    harness.installation.fund(10 * X)
    terms = harness.terms()
    move = harness.relay(terms)
    assert harness.relay(terms) == move
    harness.confirm(move)
    assert harness.relay(terms) == move
    harness.show(balance=0, next_move_nonce=1)
    assert harness.relay(terms) == move
    assert len(harness.queued()) == 1


def test_the_same_request_after_a_failure_moves_what_can_be_spared_then(any_harness: MoveHarness) -> None:
    harness = any_harness
    harness.installation.fund(10 * X)
    terms = harness.terms()
    harness.fail(harness.relay(terms))
    harness.charge(harness.reserve(2 * X), 2 * X)
    again = harness.relay(terms)
    assert (again.amount, harness.balance.moving) == (8 * X, 8 * X)


def test_of_two_moves_with_one_nonce_the_second_waits_for_the_first_to_fail(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    first, second = harness.terms(2 * X), harness.terms(3 * X)
    pending = harness.relay(first)
    for refused in (lambda: harness.relay(second), harness.terms):
        with pytest.raises(MovePending) as caught:
            refused()
        assert caught.value.details == {"transaction_id": pending.transaction_id}
    harness.fail(pending)
    assert harness.relay(second).amount == 3 * X
    with pytest.raises(MovePending):
        harness.relay(first)


def test_a_second_move_can_follow_before_the_first_is_indexed(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    harness.confirm(harness.move(4 * X))
    assert harness.move().amount == 6 * X
    assert harness.balance.moving == 10 * X


def test_what_the_vault_would_refuse_is_not_queued(harness: MoveHarness) -> None:
    """For instance because a grant has used the nonce since."""
    harness.installation.fund(10 * X)
    terms = harness.terms()
    harness.vault.nonce = 1
    with pytest.raises(Reverted):
        harness.relay(terms)
    assert (harness.queued(), harness.balance.moving) == ([], 0)


def test_a_process_that_dies_before_the_commit_has_queued_and_held_nothing(
    harness: MoveHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.installation.fund(10 * X)
    terms = harness.terms()

    def die(_store: ChannelStore, _move: Move) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ChannelStore, "add_move", die)
        with pytest.raises(KeyboardInterrupt):
            harness.relay(terms)
    assert (harness.queued(), harness.balance.available) == ([], 10 * X)
    assert harness.relay(terms).amount == 10 * X


def test_a_move_that_leaves_nothing_to_move_is_refused(harness: MoveHarness) -> None:
    with pytest.raises(NothingToMove):
        harness.terms()
    harness.installation.fund(10 * X, thawing=2 * X)
    terms = harness.terms()
    harness.charge(harness.reserve(5 * X), 5 * X)
    harness.reserve(3 * X - LEAST_MOVE + 1)
    with pytest.raises(NothingToMove) as caught:
        harness.relay(terms)
    assert caught.value.details == {
        "balance": AMOUNT.render(10 * X),
        "uncollected": AMOUNT.render(5 * X),
        "reserved": AMOUNT.render(3 * X - LEAST_MOVE + 1),
        "thawing": AMOUNT.render(2 * X),
        "moving": AMOUNT.render(0),
    }
    assert harness.queued() == []


def test_nothing_moves_while_the_view_of_the_chain_is_stale(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    terms = harness.terms()
    harness.installation.view.lag_seconds = 61
    with pytest.raises(ViewStale):
        harness.relay(terms)
    with pytest.raises(ViewStale):
        harness.terms()
    assert harness.queued() == []


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"new_collector": ZERO_ACCOUNT}, "new_collector"),
        ({"new_collector": some_account("settlement")}, "new_collector"),
        ({"max_amount": LEAST_MOVE - 1}, "max_amount"),
        ({"max_amount": 1 << 128}, "max_amount"),
        ({"deadline": int(NOW.timestamp()) + LONGEST_MOVE_SECONDS + 1}, "deadline"),
    ],
)
def test_terms_that_make_no_sense_are_refused(
    harness: MoveHarness, changes: dict[str, Any], param: str
) -> None:
    harness.installation.fund(10 * X)
    with pytest.raises(InvalidInput) as caught:
        harness.relay(replace(harness.terms(), **changes))
    assert caught.value.param == param


def test_a_signature_that_is_no_hex_is_refused(harness: MoveHarness) -> None:
    harness.installation.fund(10 * X)
    with pytest.raises(InvalidInput, match="signature must be hex"):
        harness.moves.relay(harness.payer.account, harness.terms(), "xx")


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
    installation.channel = installation.market.channel(harness.payer.account)
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
