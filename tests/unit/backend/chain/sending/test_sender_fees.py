"""The fees of transactions that are not mined, with a pool that has geth's rules."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import local_account
from backend.chain.node import Fees
from backend.chain.rpc import RpcError
from backend.chain.sending.lanes import FEE_CEILING
from backend.chain.sending.outcomes import NEW_BLOCKS
from backend.chain.sending.pool import STUCK_BLOCKS
from backend.chain.sending.sender import Sender
from backend.domain.chain import Reverted
from backend.domain.errors import Unavailable
from backend.domain.money import COIN, GWEI
from backend.domain.transactions import TransactionState
from tests.support.fee_market import CALL_GAS, FILLER_GAS, FakeClient, FakeNode, Pooled
from tests.support.market import some_account

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

OPERATOR = local_account(1)
CONFIRMATIONS = 1
HOURS = 300
"""Checks of a stuck transaction on Ethereum in five hours."""


class Lane:
    """A sender of the operator's key, which runs once in `STUCK_BLOCKS` blocks."""

    def __init__(self, database: Database, node: FakeNode, relay_budget: int | None = None) -> None:
        self.node, self.database, self.num_queued = node, database, 0
        self.sender = self.new_sender(relay_budget)

    def new_sender(self, relay_budget: int | None = None) -> Sender:
        client: Any = FakeClient(self.node)
        signers, queue = {OPERATOR.account: OPERATOR}.get, self.database.send_queue
        return Sender(client, queue, signers, CONFIRMATIONS, relay_budget=relay_budget)

    def queue(self, fee_ceiling: int | None = None, function: str = "mint") -> int:
        self.num_queued += 1
        key, args = f"call {self.num_queued}", (some_account("holder"), self.num_queued)
        with self.database.begin() as tx:
            return tx.transactions.enqueue(OPERATOR.account, "TestUSD", function, args, key, fee_ceiling)

    def run(self, times: int = 1) -> None:
        for _ in range(times):
            self.sender.run_once()
            self.node.mine(STUCK_BLOCKS)

    def offers(self) -> list[Fees]:
        """The fees of the attempts of the lane's next transaction."""
        with self.database.read() as tx:
            first = tx.transactions.open(OPERATOR.account)[0]
        return [Fees(one.max_fee, one.priority_fee) for one in first.attempts]

    def state(self, transaction: int) -> TransactionState:
        with self.database.read() as tx:
            return tx.transactions.get(transaction).state


@pytest.fixture
def lane(sqlite_database: Database) -> Lane:
    return Lane(sqlite_database, FakeNode())


@pytest.fixture
def relaying(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> Lane:
    """A lane that relays `mint`, with a budget for two calls at the present fees."""
    for name in (
        "chain.sending.lanes.RELAYED_CALLS",
        "db.transactions.RELAYED_CALLS",
        "db.transactions.BUDGETED_CALLS",
    ):
        monkeypatch.setattr(f"backend.{name}", frozenset({"mint"}))
    monkeypatch.setattr("backend.chain.sending.sender.RELAYS_WAIT_SECONDS", 0)
    node = FakeNode()
    return Lane(sqlite_database, node, relay_budget=2 * CALL_GAS * node.fees().max_fee)


def test_fees_do_not_rise_while_the_price_is_not_the_cause(lane: Lane) -> None:
    lane.node.is_forwarding = False
    transaction = lane.queue()
    lane.run(HOURS)
    assert lane.offers() == [lane.node.fees()]
    lane.node.is_forwarding = True
    lane.run(3)
    assert lane.state(transaction) == TransactionState.CONFIRMED


def test_nonces_that_a_node_behind_does_not_count_are_not_sent_again(
    lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = lane.queue()
    lane.run(3)
    lane.node.is_forwarding = False
    lane.queue()
    counted = lane.node.num_transactions
    monkeypatch.setattr(
        lane.node, "num_transactions", lambda of, block=None: 0 if block is None else counted(of, block)
    )
    lane.run(3)
    assert lane.state(over) == TransactionState.CONFIRMED


def test_a_call_behind_an_unmined_one_waits_where_a_mined_one_cannot_be_looked_up(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It may depend on the unmined one, so that its revert now is no reason to refuse it."""
    lost, node = lane.queue(), lane.node
    lane.sender.run_once()
    node.mine()
    lane.sender.run_once()
    node.mine(NEW_BLOCKS)
    node.is_forwarding = False

    def pruned(*_: object) -> None:
        raise RpcError("eth_getTransactionCount", {"message": "missing trie node"})

    def reverting(*_: object) -> int:
        raise Reverted("not yet")

    monkeypatch.setattr("backend.chain.sending.outcomes.find_by_nonce", pruned)
    monkeypatch.setattr(node, "tx_receipt", lambda _: None)
    sent = lane.queue()
    lane.sender.run_once()
    monkeypatch.setattr(FakeClient, "estimate_gas", reverting)
    dependent = lane.queue()
    lane.sender.run_once()
    states = [lane.state(each) for each in (lost, sent, dependent)]
    assert states == [TransactionState.MINED, TransactionState.SENT, TransactionState.QUEUED]
    assert caplog.text.count(f"transaction {lost}: its nonce 0 was used, and only an archive node") == 1


def test_an_account_without_coin_offers_no_more_and_goes_on_once_it_has_enough(lane: Lane) -> None:
    lane.node.coin = 0
    transaction = lane.queue()
    lane.run(HOURS)
    assert lane.offers()[-1] == lane.node.fees()
    lane.node.coin = CALL_GAS * lane.offers()[0].max_fee
    lane.run(3)
    assert lane.state(transaction) == TransactionState.CONFIRMED


@pytest.mark.parametrize(("num_blocks", "num_attempts"), [(1, 1), (STUCK_BLOCKS, 2)])
def test_a_check_ends_at_the_first_transaction_that_the_pool_refuses(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, num_blocks: int, num_attempts: int
) -> None:
    """Those behind cannot be mined before it."""
    lane.node.coin = 0
    for _ in range(9):
        lane.queue()
    lane.sender.run_once()
    lane.node.mine(num_blocks)
    asked: list[str] = []
    for name in ("fees", "broadcast"):
        ask = getattr(lane.node, name)
        monkeypatch.setattr(lane.node, name, lambda *a, of=name, ask=ask: asked.append(of) or ask(*a))
    lane.sender.run_once()
    assert sorted(asked) == ["broadcast"] * num_attempts + ["fees"]


@pytest.mark.parametrize("tip", [0, GWEI // 10])
def test_a_transaction_that_the_market_rose_above_is_replaced_at_once(lane: Lane, tip: int) -> None:
    lane.node.tip = tip
    transaction = lane.queue()
    lane.sender.run_once()
    lane.node.base_fee *= 100
    lane.run(4)
    assert lane.state(transaction) == TransactionState.CONFIRMED
    ((mined, _),) = lane.node.mined.values()
    assert mined.fees.max_fee == lane.node.fees().max_fee


def test_a_tip_below_the_suggestion_is_raised(lane: Lane) -> None:
    transaction = lane.queue()
    lane.sender.run_once()
    lane.node.tip = lane.node.least_tip = GWEI
    lane.run(4)
    assert lane.state(transaction) == TransactionState.CONFIRMED


def test_a_tip_that_blocks_take_counts_where_the_node_suggests_less(lane: Lane) -> None:
    lane.node.tip, lane.node.least_tip = 0, GWEI
    transaction = lane.queue()
    lane.run(4)
    assert lane.state(transaction) == TransactionState.CONFIRMED


@pytest.mark.parametrize(
    "error", [RpcError("eth_feeHistory", {"message": "unknown method"}), Unavailable("403")]
)
def test_a_node_without_a_history_of_fees_does_not_stop_replacements(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(_blocks: int) -> int:
        raise error

    monkeypatch.setattr(lane.node, "paid_tip", refuse)
    transaction = lane.queue()
    lane.sender.run_once()
    lane.node.base_fee *= 100
    lane.run(4)
    assert lane.state(transaction) == TransactionState.CONFIRMED


def test_a_replacement_offers_at_most_twice_what_a_new_transaction_does(lane: Lane) -> None:
    """Tips that rise in small steps would raise the other fee, which is high enough, with them."""
    lane.node.is_forwarding = False
    lane.queue()
    for _ in range(40):
        lane.run()
        lane.node.tip = lane.node.tip * 5 // 4
        assert lane.offers()[-1].max_fee <= 2 * lane.node.fees().max_fee
    assert len(lane.offers()) > 1


def test_a_transaction_of_a_spike_is_signed_again_once_its_cost_keeps_it_out_of_the_pool(
    lane: Lane,
) -> None:
    lane.node.base_fee = 1_000 * GWEI
    transaction = lane.queue()
    lane.run()
    assert not lane.node.pool, "above the node's fee cap"
    lane.node.base_fee = GWEI
    lane.run(4)
    assert lane.state(transaction) == TransactionState.CONFIRMED


def test_an_account_with_little_coin_offers_what_just_suffices(lane: Lane) -> None:
    lane.node.coin = CALL_GAS * lane.node.fees().max_fee * 2 // 3
    transaction = lane.queue()
    lane.run(4)
    assert lane.state(transaction) == TransactionState.CONFIRMED


def test_a_pool_that_lost_a_transaction_gets_the_cheapest_attempt_that_suffices(lane: Lane) -> None:
    lane.node.is_forwarding = False
    transaction = lane.queue()
    lane.sender.run_once()
    usual = lane.node.base_fee
    lane.node.base_fee *= 20
    lane.run(2)
    assert len(lane.offers()) == 2
    lane.node.base_fee, lane.node.is_forwarding = usual, True
    lane.node.pool.clear()
    cheapest = lane.offers()[0]
    lane.run(3)
    assert lane.state(transaction) == TransactionState.CONFIRMED
    ((mined, _),) = lane.node.mined.values()
    assert mined.fees == cheapest


def test_what_the_pool_has_is_raised_where_it_refuses_the_dearest_attempt(lane: Lane) -> None:
    """The account cannot pay for the dearest attempt, and the one in the pool is too cheap by now."""
    transaction = lane.queue()
    lane.sender.run_once()
    lane.node.base_fee, lane.node.coin = 3 * GWEI, CALL_GAS * 4 * GWEI
    lane.run(5)
    assert lane.state(transaction) == TransactionState.CONFIRMED


@pytest.mark.parametrize("ceiling", [3 * GWEI, None])
def test_no_replacement_exceeds_the_ceiling(lane: Lane, ceiling: int | None) -> None:
    lane.queue(ceiling)
    lane.sender.run_once()
    lane.node.base_fee = 2 * FEE_CEILING
    lane.node.coin = lane.node.fee_cap = 1_000_000 * COIN
    lane.run(100)
    assert lane.offers()[-1].max_fee == (ceiling or FEE_CEILING)


@pytest.mark.parametrize("num_demands", [1, 2])
def test_a_call_that_cannot_be_signed_yet_raises_the_ceiling_of_those_for_which_it_waits(
    lane: Lane, monkeypatch: pytest.MonkeyPatch, num_demands: int
) -> None:
    """It waits in the queue behind a call that reverts, or because the most that pools keep are unmined."""

    def estimate(*call: Any) -> int:
        if call[2] == "transfer":
            raise Reverted("demanded already")
        return CALL_GAS

    monkeypatch.setattr("backend.chain.sending.sender.MAX_UNMINED", 2)
    monkeypatch.setattr(FakeClient, "estimate_gas", estimate)
    demands = [lane.queue(3 * GWEI) for _ in range(num_demands)]
    lane.sender.run_once()
    lane.node.base_fee *= 10
    lane.queue(3 * GWEI, function="transfer")
    answer = lane.queue(function="approve")
    lane.run(8)
    assert {lane.state(each) for each in (*demands, answer)} == {TransactionState.CONFIRMED}


def test_a_relayed_call_that_waits_for_the_budget_raises_no_ceiling(relaying: Lane) -> None:
    relaying.queue(3 * GWEI, function="approve")
    relaying.sender.run_once()
    relaying.node.base_fee *= 10
    relaying.queue()
    relaying.run(8)
    assert relaying.offers()[-1].max_fee == 3 * GWEI


def test_the_budget_counts_what_was_signed_at_its_own_fees(relaying: Lane) -> None:
    ids = [relaying.queue() for _ in range(4)]
    relaying.run(3)
    relaying.node.base_fee //= 100
    relaying.node.tip //= 100
    relaying.run(3)
    states = [relaying.state(each) for each in ids]
    assert states == [TransactionState.CONFIRMED] * 2 + [TransactionState.QUEUED] * 2


def test_a_relayed_call_waits_for_the_price_to_fall_where_its_fees_would_exceed_the_budget(
    relaying: Lane,
) -> None:
    usual, relayed = relaying.node.base_fee, relaying.queue()
    relaying.sender.run_once()
    relaying.node.base_fee *= 10
    relaying.run(10)
    assert len(relaying.offers()) == 1
    relaying.node.base_fee = usual
    relaying.run(3)
    assert relaying.state(relayed) == TransactionState.CONFIRMED


def test_a_relayed_call_is_raised_within_the_budget(relaying: Lane) -> None:
    relayed = relaying.queue()
    relaying.sender.run_once()
    relaying.node.base_fee = relaying.offers()[0].max_fee * 9 // 10
    relaying.run(4)
    assert relaying.state(relayed) == TransactionState.CONFIRMED


@pytest.mark.parametrize("is_sent", [True, False])
def test_a_relayed_call_that_is_too_dear_gives_its_nonce_up_for_the_operators_own_calls(
    relaying: Lane, is_sent: bool
) -> None:
    usual, relayed = relaying.node.base_fee, relaying.queue()
    relaying.sender.run_once()
    own = relaying.queue(function="approve") if is_sent else 0
    relaying.sender.run_once()
    relaying.node.base_fee *= 10
    own = own or relaying.queue(function="approve")
    relaying.run(6)
    assert relaying.state(own) == TransactionState.CONFIRMED
    assert relaying.state(relayed) == TransactionState.QUEUED
    filler, _ = min(relaying.node.mined.values(), key=lambda one: one[0].nonce)
    assert (filler.gas, filler.data) == (FILLER_GAS, b"")
    relaying.node.base_fee = usual
    relaying.run(3)
    assert relaying.state(relayed) == TransactionState.CONFIRMED


def test_a_call_that_gives_its_nonce_up_keeps_the_hash_of_its_own_transaction(relaying: Lane) -> None:
    relayed = relaying.queue()
    relaying.sender.run_once()
    relaying.queue(function="approve")
    relaying.node.base_fee *= 10
    relaying.node.is_forwarding = False
    relaying.run(2)
    with relaying.database.read() as tx:
        call, filler = tx.transactions.open(OPERATOR.account)[0].attempts
        assert tx.transactions.get(relayed).hash == call.tx_hash
    assert Pooled.decoded(filler.raw).gas == FILLER_GAS


def test_a_call_that_is_mined_in_spite_of_its_filler_is_not_sent_again(relaying: Lane) -> None:
    usual, relayed = relaying.node.base_fee, relaying.queue()
    relaying.sender.run_once()
    earlier = dict(relaying.node.pool)
    relaying.queue(function="approve")
    relaying.node.base_fee *= 10
    relaying.node.is_forwarding = False
    relaying.run(2)
    assert len(relaying.offers()) == 2
    relaying.node.pool, relaying.node.base_fee, relaying.node.is_forwarding = earlier, usual, True
    relaying.node.mine()
    relaying.run(3)
    assert relaying.state(relayed) == TransactionState.CONFIRMED
    assert all(one.gas != FILLER_GAS for one, _ in relaying.node.mined.values())


class Killed(BaseException):
    """Simulates SIGKILL: nothing catches it, nothing is cleaned up."""


def mined_order(lane: Lane) -> list[int]:
    """The lane's calls in the order in which blocks took them, each as often as they did; 0: a filler."""
    with lane.database.read() as tx:
        calls = [tx.transactions.get(each + 1) for each in range(lane.num_queued)]
    by_hash = {call.hash: call.id for call in calls if call.state == TransactionState.CONFIRMED}
    return [by_hash.get(found.hash, 0) for found, _ in lane.node.mined.values()]


@pytest.mark.parametrize("num_mined", [0, 1])
@pytest.mark.parametrize("num_broadcast", [0, 1, 2])
def test_relayed_calls_behind_one_that_gives_its_nonce_up_are_sent_again_after_it(
    relaying: Lane, monkeypatch: pytest.MonkeyPatch, num_broadcast: int, num_mined: int
) -> None:
    """The second may depend on the first. The sender dies before it has broadcast both fillers, and the price
    falls before or after it runs again.
    """
    node, broadcast, num_left = relaying.node, relaying.node.broadcast, num_broadcast
    usual, first, second = node.base_fee, relaying.queue(), relaying.queue()
    relaying.sender.run_once()
    own = relaying.queue(function="approve")
    relaying.sender.run_once()

    def broadcast_or_die(raw: str) -> None:
        nonlocal num_left
        if Pooled.decoded(raw).gas == FILLER_GAS:
            num_left -= 1
            if num_left < 0:
                raise Killed
        broadcast(raw)

    node.base_fee *= 10
    node.mine(STUCK_BLOCKS)
    with monkeypatch.context() as patch, suppress(Killed):
        patch.setattr(node, "broadcast", broadcast_or_die)
        relaying.sender.run_once()
    if num_mined:
        node.base_fee = usual
        node.mine()
    relaying.sender = relaying.new_sender()
    relaying.sender.run_once()
    node.base_fee = usual
    relaying.run(6)
    order = [each for each in mined_order(relaying) if each]
    assert own in order
    assert [each for each in order if each != own] == [first, second]


def test_no_relayed_call_is_signed_before_those_that_gave_their_nonces_up(relaying: Lane) -> None:
    usual, first = relaying.node.base_fee, relaying.queue()
    relaying.sender.run_once()
    own = relaying.queue(function="approve")
    relaying.sender.run_once()
    relaying.node.base_fee *= 10
    relaying.node.mine(STUCK_BLOCKS)
    relaying.sender.run_once()
    second, relaying.node.base_fee = relaying.queue(), usual
    relaying.new_sender().run_once()
    relaying.run(6)
    assert mined_order(relaying) == [0, own, first, second]
