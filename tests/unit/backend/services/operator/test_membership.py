from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import LocalSigner, recover
from backend.domain.errors import Conflict, InvalidInput
from backend.domain.hashing import TypedDomain, keccak
from backend.domain.ids import ZERO_ACCOUNT, Account
from backend.domain.money import AMOUNT
from backend.domain.registries import Operator
from backend.services.operator.membership import Membership, OperatorStatus, StakeLocked
from backend.services.operator.receipt_keys import ReceiptKeys
from tests.support.fakes import FakeHeldKeys
from tests.support.market import CHAIN_ID, some_account

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database
    from backend.domain.transactions import ChainTransaction

OWN, KEY = some_account("operator"), LocalSigner(keccak(b"receipt key"))
DOMAIN = TypedDomain(CHAIN_ID, some_account("OperatorRegistry"))
DOLLAR = 10**12


class FakeChain:
    """Scripted results of the contracts' calls."""

    def __init__(self) -> None:
        self.held, self.allowance, self.pot, self.wei = 5_000 * 10**6, 0, 0, 10**18
        self.stake: dict[str, int] = {"stake": 0, "unstaking": 0, "lockedByBatch": 0}
        self.settled: dict[str, int] = {"last": 0, "finalised": 0, "toRefund": 0}
        self.key_owner, self.owed, self.credit = ZERO_ACCOUNT, 0, 0
        self.prepared: list[str] = []

    def address(self, contract: str) -> Account:
        return some_account(contract)

    def balance(self, account: Account) -> int:
        assert account == OWN
        return self.wei

    def prepare(self, contract: str, function: str, *_args: Any, sender: Account) -> None:
        assert sender == OWN
        self.prepared.append(f"{contract}.{function}")

    def call(self, _contract: str, function: str, *_args: Any) -> Any:
        return {
            "balanceOf": self.held,
            "allowance": self.allowance,
            "stakeOf": self.stake,
            "stateOf": self.settled,
            "operatorOfKey": self.key_owner,
            "owed": self.owed,
            "creditOf": self.credit,
            "potOf": self.pot,
            "current": {"stakeCoverPpm": 100_000},
        }[function]

    def leaves(self, dollars: int, batch: int = 0) -> None:
        self.stake |= {"unstaking": dollars * DOLLAR, "lockedByBatch": batch}


class MembershipHarness:
    def __init__(self, database: Database, receipt_key: LocalSigner = KEY) -> None:
        self.chain, self.database = FakeChain(), database
        chain: Any = self.chain
        keys = ReceiptKeys(OWN, lambda: receipt_key, FakeHeldKeys)
        self.membership = Membership(database, chain, OWN, keys, DOMAIN)

    def join(self, dollars: int) -> list[str]:
        return calls(self.membership.join(dollars * 10**6))

    def status(self) -> OperatorStatus:
        return self.membership.status()

    def mined(self, transaction: ChainTransaction) -> None:
        with self.database.begin() as tx:
            tx.transactions.mark_failed(transaction.id, {})  # final, with any result


def calls(transactions: list[ChainTransaction]) -> list[str]:
    return [f"{one.function} {one.args[-1]}" if one.args else one.function for one in transactions]


@pytest.fixture
def harness(sqlite_database: Database) -> MembershipHarness:
    return MembershipHarness(sqlite_database)


def test_joining_approves_stakes_and_registers_the_key_in_this_order(harness: MembershipHarness) -> None:
    queued = harness.membership.join(1_000 * 10**6)
    assert [(one.lane, one.contract, one.function) for one in queued] == [
        (OWN, "PaymentToken", "approve"),
        (OWN, "OperatorRegistry", "stake"),
        (OWN, "OperatorRegistry", "addReceiptKey"),
    ]
    assert [one.id for one in queued] == sorted(one.id for one in queued)
    registry = some_account("OperatorRegistry")
    assert [one.args for one in queued[:2]] == [(registry, "1000000000"), ("1000000000",)]
    key, consent = queued[2].args
    assert recover(DOMAIN.receipt_key_digest(OWN), consent) == key == KEY.account
    assert harness.chain.prepared == ["OperatorRegistry.addReceiptKey"]


def test_joining_again_before_anything_is_mined_queues_nothing_more(harness: MembershipHarness) -> None:
    first = harness.membership.join(1_000 * 10**6)
    assert harness.membership.join(1_000 * 10**6) == first


def test_queued_transactions_are_not_simulated_again(
    harness: MembershipHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A simulation on top of the node's pool, which contains the transaction, would fail."""
    first = harness.membership.join(10**6)

    def fails(*_args: Any, **_options: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(harness.chain, "prepare", fails)
    assert harness.membership.join(10**6) == first


def test_joining_again_does_only_what_is_missing(harness: MembershipHarness) -> None:
    harness.chain.stake["stake"] = 600 * DOLLAR
    harness.chain.key_owner = OWN
    assert harness.join(600) == []
    assert harness.join(1_000) == ["approve 400000000", "stake 400000000"]
    assert harness.chain.prepared == []


def test_an_allowance_that_is_enough_is_used_and_a_smaller_one_taken_back_first(
    harness: MembershipHarness,
) -> None:
    harness.chain.key_owner, harness.chain.allowance = OWN, 7 * 10**6
    assert harness.join(7) == ["stake 7000000"]
    for one in harness.membership.join(7 * 10**6):
        harness.mined(one)
    assert harness.join(8) == ["approve 0", "approve 8000000", "stake 8000000"]
    assert harness.join(8) == ["approve 0", "approve 8000000", "stake 8000000"]


def test_another_stake_waits_for_the_one_under_way(harness: MembershipHarness) -> None:
    harness.chain.key_owner, harness.chain.allowance = OWN, 10**12
    first = harness.membership.join(10**6)[0]
    with pytest.raises(Conflict, match=f"Transaction {first.id}, OperatorRegistry.stake, is pending"):
        harness.join(2)
    harness.chain.stake["stake"] = DOLLAR  # it is mined, and not noticed here: the same stake once more?
    with pytest.raises(Conflict, match="is pending"):
        harness.join(2)
    harness.mined(first)
    assert harness.join(2) == ["stake 1000000"]


def test_a_failed_stake_is_queued_again(harness: MembershipHarness) -> None:
    harness.chain.key_owner, harness.chain.allowance = OWN, 10**12
    first = harness.membership.join(10**6)[0]
    harness.mined(first)
    (again,) = harness.membership.join(10**6)
    assert again.id > first.id


def test_an_insufficient_balance_is_reported_with_its_amount(harness: MembershipHarness) -> None:
    harness.chain.held = 250 * 10**6
    with pytest.raises(
        Conflict, match=r"The stake lacks 1,000 dollars, and .* has only 250 dollars"
    ) as refused:
        harness.join(1_000)
    assert refused.value.details == {
        "held": AMOUNT.render(250 * DOLLAR),
        "missing": AMOUNT.render(1_000 * DOLLAR),
    }
    with harness.database.read() as tx:
        assert tx.transactions.lanes() == []


def test_without_gas_nothing_is_queued(harness: MembershipHarness) -> None:
    harness.chain.wei = 0
    with pytest.raises(Conflict, match="no coin to pay for gas"):
        harness.join(1)


@pytest.mark.parametrize("units", [0, -1])
def test_a_stake_is_more_than_nothing(harness: MembershipHarness, units: int) -> None:
    with pytest.raises(InvalidInput):
        harness.membership.join(units)


def test_a_key_of_another_operator_is_refused_before_any_stake(harness: MembershipHarness) -> None:
    harness.chain.key_owner = some_account("other")
    with pytest.raises(Conflict, match=f"bound to operator {harness.chain.key_owner}"):
        harness.join(1)


def test_the_operator_itself_is_no_receipt_key(sqlite_database: Database) -> None:
    harness = MembershipHarness(sqlite_database)
    harness.membership._own = KEY.account
    with pytest.raises(Conflict, match="is the operator's own account"):
        harness.membership.join(1)


def test_an_endpoint_is_announced_as_a_transaction_of_the_operator(harness: MembershipHarness) -> None:
    queued = harness.membership.announce("https://market.example/")
    assert (queued.contract, queued.function, queued.args) == (
        "OperatorRegistry",
        "setEndpoint",
        ("https://market.example/",),
    )
    assert harness.membership.announce("").id > queued.id


@pytest.mark.parametrize(
    "url", ["market.example", "ftp://x", "https://x/" + "y" * 300, "https://x/?q", "https://"]
)
def test_an_invalid_base_url_is_not_announced(harness: MembershipHarness, url: str) -> None:
    with pytest.raises(InvalidInput):
        harness.membership.announce(url)


def test_a_part_of_the_stake_is_asked_back_once_and_kept_by_zero(harness: MembershipHarness) -> None:
    harness.chain.stake["stake"] = 1_000 * DOLLAR
    with pytest.raises(Conflict, match="nothing to cancel"):
        harness.membership.unstake(0)
    with pytest.raises(InvalidInput, match="The stake is only 1,000 dollars"):
        harness.membership.unstake(1_000 * DOLLAR + 1)
    (asked,) = harness.membership.unstake(400 * DOLLAR)
    assert harness.membership.unstake(400 * DOLLAR) == [asked]
    harness.mined(asked)
    harness.chain.leaves(400)
    with pytest.raises(Conflict, match="400 dollars are already being withdrawn"):
        harness.membership.unstake(400 * DOLLAR)
    (kept,) = harness.membership.unstake(0)
    assert (kept.function, kept.args) == ("startUnstake", ("0",))


def test_nothing_is_withdrawn_before_it_is_free(harness: MembershipHarness) -> None:
    harness.chain.stake["stake"] = 1_000 * DOLLAR
    with pytest.raises(Conflict, match="No part of the stake"):
        harness.membership.withdraw()
    harness.chain.leaves(400, batch=7)
    harness.chain.settled |= {"last": 8, "finalised": 6}
    with pytest.raises(StakeLocked, match="once batch 7 is final"):
        harness.membership.withdraw()
    harness.chain.settled["finalised"] = 7
    assert calls(harness.membership.withdraw()) == ["unstake"]


def test_a_void_that_ended_all_batches_locks_nothing_unless_refunds_are_open(
    harness: MembershipHarness,
) -> None:
    harness.chain.stake["stake"] = DOLLAR
    harness.chain.leaves(1, batch=7)
    harness.chain.settled |= {"last": 6, "finalised": 6, "toRefund": 1}
    with pytest.raises(StakeLocked):
        harness.membership.withdraw()
    harness.chain.settled["toRefund"] = 0
    assert calls(harness.membership.withdraw()) == ["unstake"]


def test_stake_moves_to_another_registry_once_however_often_it_is_asked(harness: MembershipHarness) -> None:
    harness.chain.stake["stake"] = 1_000 * DOLLAR
    harness.chain.settled |= {"last": 8, "finalised": 8}
    registry = some_account("next registry")
    (queued,) = harness.membership.restake(registry, 400 * 10**6)
    assert (queued.contract, queued.function) == ("OperatorRegistry", "restake")
    assert queued.args == (registry, "400000000")
    assert harness.chain.prepared == ["OperatorRegistry.restake"]
    assert harness.membership.restake(registry, 400 * 10**6) == [queued]


@pytest.mark.parametrize("pending", [{"last": 9}, {"toRefund": 1}])
def test_no_stake_moves_while_a_batch_is_pending_or_to_be_refunded(
    harness: MembershipHarness, pending: dict[str, int]
) -> None:
    harness.chain.stake["stake"] = 1_000 * DOLLAR
    harness.chain.settled |= {"last": 8, "finalised": 8, **pending}
    with pytest.raises(StakeLocked, match="`loraledger settle` finalises and refunds them"):
        harness.membership.restake(some_account("next registry"), 10**6)
    assert harness.chain.prepared == []


def test_no_more_than_the_stake_moves_and_not_to_where_it_is(harness: MembershipHarness) -> None:
    harness.chain.stake["stake"] = 1_000 * DOLLAR
    for units in (0, 1_000 * 10**6 + 1):
        with pytest.raises(InvalidInput, match="The stake is 1,000 dollars"):
            harness.membership.restake(some_account("next registry"), units)
    with pytest.raises(InvalidInput, match="is the registry that holds the stake"):
        harness.membership.restake(some_account("OperatorRegistry"), 10**6)


def test_the_rest_of_an_unstaking_amount_after_a_slash_is_reported(harness: MembershipHarness) -> None:
    harness.chain.stake["stake"] = 300 * DOLLAR
    harness.chain.leaves(400)
    unstaking = harness.status().unstaking
    assert unstaking is not None
    assert (unstaking.amount, harness.status().cover) == (300 * DOLLAR, 0)
    harness.chain.stake["stake"] = 0
    with pytest.raises(Conflict, match="it was slashed"):
        harness.membership.withdraw()


def test_earnings_are_withdrawn_while_the_stake_is_locked(harness: MembershipHarness) -> None:
    harness.chain.stake["stake"] = DOLLAR
    harness.chain.leaves(1, batch=1)
    harness.chain.settled |= {"last": 1}
    harness.chain.owed = DOLLAR
    with pytest.raises(StakeLocked, match="once batch 1 is final"):
        harness.membership.withdraw(needs_stake=True)
    assert calls(harness.membership.withdraw()) == [f"withdrawOwed {OWN}"]
    harness.chain.settled |= {"finalised": 1}
    assert calls(harness.membership.withdraw()) == ["unstake", f"withdrawOwed {OWN}"]


def test_what_answers_to_demands_earned_is_withdrawn_to_the_operator(harness: MembershipHarness) -> None:
    harness.chain.leaves(5, batch=3)  # still locked
    harness.chain.settled |= {"last": 3, "finalised": 2}
    harness.chain.credit = 10**15
    (queued,) = harness.membership.withdraw()
    assert (queued.contract, queued.function, queued.args) == ("Disputes", "withdrawCredit", (OWN,))
    assert harness.membership.status().credit == 10**15


def well(harness: MembershipHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the operator able to settle."""
    harness.chain.stake["stake"], harness.chain.key_owner = 10 * DOLLAR, OWN
    known = Operator(OWN, "https://market.example", (KEY.account,), 10 * DOLLAR)
    monkeypatch.setattr("backend.db.chain.ChainStore.operator", lambda _, account: {OWN: known}.get(account))


def test_an_operator_that_could_settle_has_no_obstacle(
    harness: MembershipHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    well(harness, monkeypatch)
    found = harness.status()
    assert found.obstacles == ()
    assert (found.endpoint, found.keys, found.has_key) == ("https://market.example", (KEY.account,), True)
    harness.chain.pot = 100 * DOLLAR
    assert (harness.status().cover_needed, harness.status().obstacles) == (10 * DOLLAR, ())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"key_owner": ZERO_ACCOUNT}, "is not registered: `loraledger operator join"),
        ({"key_owner": some_account("other")}, "bound to operator"),
        ({"stake": {"stake": 0, "unstaking": 0}}, "no stake covers a batch"),
        (
            {"stake": {"stake": DOLLAR, "unstaking": DOLLAR, "lockedByBatch": 0}},
            "or `loraledger operator unstake 0`",
        ),
        ({"pot": 100 * DOLLAR + 20}, "10 dollars cover new batches, 10.000001 dollars are needed"),
        ({"wei": 0}, "no coin to pay for gas"),
    ],
)
def test_each_reason_against_settling_is_reported_separately(
    harness: MembershipHarness, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], said: str
) -> None:
    well(harness, monkeypatch)
    for name, value in change.items():
        setattr(harness.chain, name, value)
    (obstacle,) = harness.status().obstacles
    assert said in obstacle


def test_a_key_that_is_not_indexed_yet_is_reported(harness: MembershipHarness) -> None:
    harness.chain.stake["stake"], harness.chain.key_owner = 10 * DOLLAR, OWN
    (obstacle,) = harness.status().obstacles
    assert "not in the index yet: check that `loraledger index` runs" in obstacle
