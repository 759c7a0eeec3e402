"""The budget of relayed transactions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.chain import Reverted
from backend.domain.errors import Conflict, Unavailable
from backend.domain.money import GWEI
from backend.domain.transactions import PreparedTransaction, TransactionAttempt
from backend.services.transactions.relays import ACCOUNT_SHARE, RelayBudgetSpent, Relays
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.db.unit_of_work import Database, UnitOfWork
    from backend.domain.ids import Account

LANE = some_account("operator")
GRANT = ("PaymentVault", "grantSessionWithSig")
GAS = 100_000
FEE = 2 * GWEI
"""Highest price at which a gas is signed while it costs 1 gwei."""


class FakeChain:
    """Every call needs `GAS`, at a price of `gas_price_gwei`, unless it is in `reverting`."""

    def __init__(self) -> None:
        self.gas_price_gwei = 1
        self.reverting: set[Any] = set()
        self.simulated: list[Any] = []

    def gas_price(self) -> int:
        return self.gas_price_gwei * GWEI

    def prepare(
        self, contract: str, function: str, *args: Any, sender: Account | None = None
    ) -> PreparedTransaction:
        assert sender == LANE
        self.simulated.append(args)
        if args[0] in self.reverting:
            raise Reverted("it would fail")
        return PreparedTransaction(31337, some_account(contract), "0x", 0, {}, GAS)


class Harness:
    """Relays with a budget of `num` calls in 24 hours; None: without one."""

    def __init__(self, database: Database, num: int | None) -> None:
        self.database, self.chain, self.now = database, FakeChain(), datetime.now(UTC)
        chain: Any = self.chain
        budget = None if num is None else num * GAS * FEE
        self.relays = Relays(database, chain, LANE, budget, lambda: self.now)

    def relay(self, account: str, key: str, args: Sequence[Any] = ("a",)) -> int:
        return self.relays.relay(some_account(account), GRANT, args, key)

    def fail(self, transaction: int, nonce: int | None) -> None:
        with self.database.begin() as tx:
            if nonce is not None:
                sign(tx, transaction, nonce)
            tx.transactions.mark_failed(transaction, {"error": "Failed"})

    def sign_all(self) -> None:
        """Sign what is queued, now by the clock of the database's store, not by `now`."""
        with self.database.begin() as tx:
            while (queued := tx.transactions.first_queued(LANE)) is not None:
                sign(tx, queued.id, 0)

    def mine_all(self) -> None:
        with self.database.begin() as tx:
            for number, sent in enumerate(tx.transactions.open(LANE)):
                tx.transactions.mark_mined(sent.id, sent.attempts[0].tx_hash, number, some_hash("block"))

    def relayed(self) -> int:
        """Number of calls that count, each for `GAS` at `FEE` at most."""
        with self.database.read() as tx:
            found = tx.transactions.relayed(LANE, self.now - timedelta(hours=24))
        return (found.cost + found.queued_gas * FEE) // (GAS * FEE)


def sign(tx: UnitOfWork, transaction: int, chain_nonce: int, gas: int = GAS, max_fee: int = FEE) -> None:
    tx.transactions.lock_lane(LANE)
    tx.transactions.assign_nonce(LANE, transaction, chain_nonce, gas)
    tx.transactions.add_attempt(
        transaction, TransactionAttempt(some_hash(f"{transaction} for {max_fee}"), "0x02", max_fee, 1, 1)
    )


def test_all_accounts_together_stay_within_the_budget(database: Database) -> None:
    harness = Harness(database, 20)
    for number in range(20):
        harness.relay(f"payer {number}", f"key {number}")
    with pytest.raises(RelayBudgetSpent, match=r"pays 4,000,000 gwei .* for all accounts") as refused:
        harness.relay("one more", "one more")
    assert refused.value.details["retry_after_seconds"] == 3600
    assert harness.relayed() == 20
    harness.now += timedelta(hours=25)
    for sign_or_mine in (harness.sign_all, harness.mine_all):
        with pytest.raises(RelayBudgetSpent):
            harness.relay("one more", "one more")
        sign_or_mine()
    harness.relay("one more", "one more")


def test_one_account_may_use_its_share(database: Database) -> None:
    harness = Harness(database, 2 * ACCOUNT_SHARE)
    for key in ("first", "second"):
        harness.relay("payer", key)
    with pytest.raises(RelayBudgetSpent, match=str(some_account("payer"))):
        harness.relay("payer", "third")
    harness.relay("another", "third")


def test_the_budget_is_in_coins_at_the_present_price_of_gas(database: Database) -> None:
    harness = Harness(database, 2 * ACCOUNT_SHARE)
    harness.chain.gas_price_gwei = 2
    harness.relay("payer", "first")
    with pytest.raises(RelayBudgetSpent):
        harness.relay("payer", "second")
    harness.chain.gas_price_gwei = 1
    harness.relay("payer", "second")


def test_what_was_signed_counts_at_its_own_fees_while_the_price_falls(database: Database) -> None:
    harness = Harness(database, 2 * ACCOUNT_SHARE)
    for number in range(2 * ACCOUNT_SHARE):
        harness.relay(f"payer {number}", f"key {number}")
    harness.sign_all()
    harness.chain.gas_price_gwei = 0
    harness.relay("free", "free")
    harness.chain.gas_price_gwei = 1
    with pytest.raises(RelayBudgetSpent):
        harness.relay("one more", "one more")


def test_reviews_of_relayed_contributions_count(database: Database) -> None:
    harness = Harness(database, ACCOUNT_SHARE)
    with database.begin() as tx:
        sign(tx, tx.transactions.enqueue(LANE, "DatasetRegistry", "review", [], "review"), 0)
    for number in range(ACCOUNT_SHARE - 1):
        harness.relay(f"payer {number}", f"key {number}")
    with pytest.raises(RelayBudgetSpent):
        harness.relay("one more", "one more")


def test_without_a_budget_everything_is_relayed(database: Database) -> None:
    harness = Harness(database, None)
    assert len({harness.relay("payer", f"key {number}") for number in range(30)}) == 30


def test_a_budget_of_nothing_relays_nothing(database: Database) -> None:
    with pytest.raises(RelayBudgetSpent):
        Harness(database, 0).relay("payer", "key")


def test_a_repeated_request_is_the_same_transaction_and_counts_once(database: Database) -> None:
    harness = Harness(database, ACCOUNT_SHARE)
    first = harness.relay("payer", "key")
    assert harness.relay("payer", "key") == first
    assert len(harness.chain.simulated) == 1, "a call that is sent already would fail"
    with pytest.raises(Conflict, match="another call"):
        harness.relay("payer", "key", args=("b",))


def test_a_call_that_would_fail_is_neither_queued_nor_counted(database: Database) -> None:
    harness = Harness(database, ACCOUNT_SHARE)
    harness.chain.reverting.add("a")
    with pytest.raises(Reverted):
        harness.relay("payer", "key")
    assert harness.relayed() == 0


def test_a_failed_transaction_is_sent_again_and_counts_if_it_was_mined(database: Database) -> None:
    harness = Harness(database, 2 * ACCOUNT_SHARE)
    refused = harness.relay("payer", "key")
    harness.fail(refused, nonce=None)
    assert harness.relayed() == 0, "it was never sent"
    mined = harness.relay("payer", "key")
    harness.fail(mined, nonce=0)
    assert harness.relay("payer", "key") not in {refused, mined}
    assert harness.relayed() == 2


def test_a_transaction_that_fails_between_check_and_queue_is_not_sent_again_unchecked(
    database: Database,
) -> None:
    harness = Harness(database, ACCOUNT_SHARE)
    first = harness.relay("payer", "key")
    relay = harness.relays.prepare(some_account("payer"), GRANT, ["a"], "key")
    harness.fail(first, nonce=None)
    with pytest.raises(Unavailable, match="try again"), database.begin() as tx:
        harness.relays.queue(tx, relay)


def test_a_call_that_cannot_be_simulated_counts_by_an_estimate(database: Database) -> None:
    harness = Harness(database, 20 * ACCOUNT_SHARE)
    relay = harness.relays.prepare(some_account("payer"), GRANT, ["a"], "key", gas=2 * GAS)
    assert (relay.gas, harness.chain.simulated) == (2 * GAS, [])
    with database.begin() as tx:
        queued = harness.relays.queue(tx, relay)
    assert harness.relayed() == 2
    with database.begin() as tx:
        sign(tx, queued, 0, gas=3 * GAS)
    assert harness.relayed() == 3, "the sender's estimate replaces it"


def test_concurrent_requests_do_not_exceed_the_budget_together(database: Database) -> None:
    harness = Harness(database, 2 * ACCOUNT_SHARE)

    def attempt(number: int) -> bool:
        try:
            harness.relay("payer", f"key {number}")
        except RelayBudgetSpent:
            return False
        return True

    with ThreadPoolExecutor(8) as requests:
        assert sum(requests.map(attempt, range(16))) == 2
    assert harness.relayed() == 2
