from __future__ import annotations

import threading
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import local_account
from backend.chain.node import Fees
from backend.chain.rpc import RpcError
from backend.chain.sending.nonces import find_by_nonce
from backend.chain.sending.outcomes import NEW_BLOCKS
from backend.chain.sending.pool import STUCK_BLOCKS
from backend.chain.sending.sender import Sender
from backend.chain.transactions import NotRun, UnsignedTransaction, sign
from backend.domain.hashing import keccak, to_bytes, to_hash
from backend.domain.transactions import RELAY_PERIOD, TransactionState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.chain.client import ChainClient
    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account, Hash32
    from backend.domain.transactions import ChainTransaction

OPERATOR, USER = local_account(1), local_account(3)
CONFIRMATIONS = 2
SIGNERS = {key.account: key for key in (OPERATOR, USER)}


class Killed(BaseException):
    """Simulates SIGKILL: nothing catches it, nothing is cleaned up."""


def sender(chain: ChainClient, database: Database) -> Sender:
    return Sender(chain, database.send_queue, SIGNERS.get, CONFIRMATIONS)


def enqueue(
    database: Database, key: str, *call: Any, lane: Account = OPERATOR.account, value: int = 0
) -> int:
    contract, function, *args = call or ("TestUSD", "mint", USER.account, 1)
    with database.begin() as tx:
        return tx.transactions.enqueue(lane, contract, function, args, key, value=value)


def state(database: Database, transaction: int) -> ChainTransaction:
    with database.read() as tx:
        return tx.transactions.get(transaction)


def mine(chain: ChainClient, blocks: int = 1) -> None:
    chain.node.rpc.request("hardhat_mine", hex(blocks))


def dollars(chain: ChainClient, account: Account = USER.account) -> int:
    balance: int = chain.call("TestUSD", "balanceOf", account)
    return balance


@contextmanager
def manual_mining(chain: ChainClient) -> Iterator[None]:
    chain.node.rpc.request("evm_setAutomine", False)
    try:
        yield
    finally:
        chain.node.rpc.request("evm_setAutomine", True)


def test_a_transaction_needs_confirmations(chain: ChainClient, database: Database) -> None:
    before, transaction = dollars(chain), enqueue(database, "a")
    sender(chain, database).run_once()
    sender(chain, database).run_once()
    assert state(database, transaction).state == TransactionState.MINED
    mine(chain, CONFIRMATIONS)
    sender(chain, database).run_once()
    assert state(database, transaction).state == TransactionState.CONFIRMED
    assert dollars(chain) == before + 1


def test_a_call_that_would_revert_fails_with_its_custom_error(
    chain: ChainClient, sqlite_database: Database
) -> None:
    transaction = enqueue(sqlite_database, "a", "Parameters", "pauseCommits", 1)
    sender(chain, sqlite_database).run_once()
    failed = state(sqlite_database, transaction)
    assert (failed.state, failed.nonce) == (TransactionState.FAILED, None)
    assert failed.error is not None
    assert failed.error["error"] == "AccessManagedUnauthorized"
    assert failed.error["args"] == {"caller": OPERATOR.account}


def test_wrong_arguments_fail_without_stopping_the_lane(
    chain: ChainClient, sqlite_database: Database
) -> None:
    wrong = enqueue(sqlite_database, "a", "TestUSD", "mint", "not an address", 1)
    right = enqueue(sqlite_database, "b")
    sender(chain, sqlite_database).run_once()
    assert state(sqlite_database, wrong).error is not None
    assert state(sqlite_database, right).state == TransactionState.SENT


def test_a_call_that_reverts_without_an_unmined_one_waits_for_it(
    chain: ChainClient, sqlite_database: Database
) -> None:
    """The next block is too dear for the first call, so the second one is estimated without it."""
    before, held = dollars(chain), dollars(chain, OPERATOR.account)
    with manual_mining(chain):
        first = enqueue(sqlite_database, "a", "TestUSD", "mint", OPERATOR.account, 1)
        sender(chain, sqlite_database).run_once()
        with sqlite_database.read() as tx:
            (attempt,) = tx.transactions.open(OPERATOR.account)[0].attempts
        chain.node.rpc.request("hardhat_setNextBlockBaseFeePerGas", hex(attempt.max_fee + 1))
        second = enqueue(sqlite_database, "b", "TestUSD", "transfer", USER.account, held + 1)
        sender(chain, sqlite_database).run_once()
        assert state(sqlite_database, second).state == TransactionState.QUEUED
        chain.node.rpc.request("hardhat_setNextBlockBaseFeePerGas", hex(attempt.max_fee // 2))
        mine(chain)
        sender(chain, sqlite_database).run_once()
        mine(chain, 1 + CONFIRMATIONS)
    sender(chain, sqlite_database).run_once()
    assert {state(sqlite_database, each).state for each in (first, second)} == {TransactionState.CONFIRMED}
    assert dollars(chain) == before + held + 1


def test_relayed_calls_wait_for_the_budget_and_own_calls_do_not(
    chain: ChainClient, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (
        "chain.sending.lanes.RELAYED_CALLS",
        "db.transactions.RELAYED_CALLS",
        "db.transactions.BUDGETED_CALLS",
    ):
        monkeypatch.setattr(f"backend.{name}", frozenset({"mint"}))
    monkeypatch.setattr("backend.chain.sending.sender.RELAYS_WAIT_SECONDS", 0)
    relayed = [enqueue(sqlite_database, f"relayed {number}") for number in range(3)]

    def run(budget: int | None) -> list[bool]:
        database_queue = sqlite_database.send_queue
        Sender(chain, database_queue, SIGNERS.get, CONFIRMATIONS, relay_budget=budget).run_once()
        return [state(sqlite_database, each).state == TransactionState.QUEUED for each in relayed]

    assert run(0) == [True] * 3
    own = enqueue(sqlite_database, "own", "TestUSD", "approve", USER.account, 1)
    assert run(0) == [True] * 3
    assert state(sqlite_database, own).state == TransactionState.SENT
    assert run(10**18) == [False] * 3
    (gas,) = {state(sqlite_database, each).gas for each in relayed[1:]}
    assert gas is not None
    late = enqueue(sqlite_database, "late")
    with sqlite_database.read() as tx:
        spent = tx.transactions.relay_cost(OPERATOR.account, datetime.now(UTC) - RELAY_PERIOD)
    relayed = [late]
    assert run(spent) == [True]
    assert run(spent + 2 * gas * chain.node.fees().max_fee) == [False]


@pytest.mark.parametrize("is_broadcast", [True, False])
def test_a_sender_killed_around_the_broadcast_sends_exactly_once(
    chain: ChainClient, database: Database, monkeypatch: pytest.MonkeyPatch, is_broadcast: bool
) -> None:
    before, transaction = dollars(chain), enqueue(database, "a")
    broadcast = chain.node.broadcast

    def broadcast_and_die(raw: str) -> None:
        if is_broadcast:
            broadcast(raw)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(chain.node, "broadcast", broadcast_and_die)
        with pytest.raises(Killed):
            sender(chain, database).run_once()
    for _ in range(3):
        sender(chain, database).run_once()
        mine(chain)
    assert state(database, transaction).state == TransactionState.CONFIRMED
    assert dollars(chain) == before + 1


def test_two_senders_on_one_key_do_not_collide(chain: ChainClient, database: Database) -> None:
    """The node refuses a transaction that reaches it before the one of the nonce before; the next run sends
    it again.
    """
    before = dollars(chain)
    ids = [enqueue(database, f"mint {i}") for i in range(8)]
    threads = [threading.Thread(target=sender(chain, database).run_once) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sender(chain, database).run_once()
    mine(chain, CONFIRMATIONS)
    sender(chain, database).run_once()
    sent = [state(database, transaction) for transaction in ids]
    assert {t.state for t in sent} == {TransactionState.CONFIRMED}
    nonces = sorted(t.nonce or 0 for t in sent)
    assert nonces == list(range(nonces[0], nonces[0] + 8))
    assert dollars(chain) == before + 8


def test_a_stuck_transaction_pays_an_eighth_more_until_it_is_mined(
    chain: ChainClient, database: Database
) -> None:
    before, transaction = dollars(chain), enqueue(database, "a")
    with manual_mining(chain):
        sender(chain, database).run_once()
        with database.read() as tx:
            (waiting,) = tx.transactions.open(OPERATOR.account)
        for _ in range(STUCK_BLOCKS):
            too_dear = waiting.attempts[0].max_fee + 1
            chain.node.rpc.request("hardhat_setNextBlockBaseFeePerGas", hex(too_dear))
            mine(chain)
            sender(chain, database).run_once()
        with database.read() as tx:
            (waiting,) = tx.transactions.open(OPERATOR.account)
        first, second = waiting.attempts
        assert second.max_fee * 8 >= first.max_fee * 9
        assert second.priority_fee * 8 >= first.priority_fee * 9
        mine(chain, 1 + CONFIRMATIONS)
        sender(chain, database).run_once()
    sent = state(database, transaction)
    assert (sent.state, sent.hash) == (TransactionState.CONFIRMED, second.tx_hash)
    assert dollars(chain) == before + 1


def test_the_paid_tip_is_the_least_of_the_newest_blocks(chain: ChainClient) -> None:
    tips = [7, 3, 5]
    for tip in tips:
        nonce, fees = chain.node.num_transactions(OPERATOR.account), Fees(10**12, tip)
        unsigned = UnsignedTransaction(chain.chain_id, nonce, USER.account, b"", 21_000, fees)
        chain.node.broadcast(sign(OPERATOR, unsigned).raw)
    assert [chain.node.paid_tip(blocks) for blocks in (1, 2, 3)] == [5, 3, 3]
    mine(chain)
    assert chain.node.paid_tip(2) == 0


def test_a_dropped_transaction_is_broadcast_again(chain: ChainClient, sqlite_database: Database) -> None:
    transaction = enqueue(sqlite_database, "a")
    with manual_mining(chain):
        sender(chain, sqlite_database).run_once()
        tx_hash = state(sqlite_database, transaction).hash
        assert tx_hash is not None
        chain.node.rpc.request("hardhat_dropTransaction", tx_hash)
        assert not chain.node.knows(tx_hash)
        sender(chain, sqlite_database).run_once()
        assert chain.node.knows(tx_hash)


def test_a_transaction_whose_nonce_was_used_gets_the_next_nonce(
    chain: ChainClient, database: Database
) -> None:
    before, transaction = dollars(chain), enqueue(database, "a")
    with manual_mining(chain):
        sender(chain, database).run_once()
        ours = state(database, transaction)
        assert ours.hash is not None
        assert ours.nonce is not None
        chain.node.rpc.request("hardhat_dropTransaction", ours.hash)
        chain.node.broadcast(other_transaction(chain, ours.nonce))
        mine(chain, 1 + CONFIRMATIONS)
    for _ in range(3):
        sender(chain, database).run_once()
        mine(chain, CONFIRMATIONS)
    sent = state(database, transaction)
    assert (sent.state, sent.nonce) == (TransactionState.CONFIRMED, ours.nonce + 1)
    assert dollars(chain) == before + 1


def test_a_used_nonce_that_the_node_cannot_look_up_stops_no_other_call(
    chain: ChainClient, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost, counts = enqueue(sqlite_database, "a"), chain.node.num_transactions

    def recent_counts(account: Account, block: int | None = None) -> int:
        if block is not None and block < chain.node.head().number - CONFIRMATIONS:
            raise RpcError("eth_getTransactionCount", {"message": "missing trie node"})
        return counts(account, block)

    with manual_mining(chain):
        sender(chain, sqlite_database).run_once()
        ours = state(sqlite_database, lost)
        assert ours.hash is not None
        assert ours.nonce is not None
        chain.node.rpc.request("hardhat_dropTransaction", ours.hash)
        chain.node.broadcast(other_transaction(chain, ours.nonce))
        for _ in range(NEW_BLOCKS):  # one by one: Hardhat forgets the counts of blocks that it mines at once
            mine(chain)
        monkeypatch.setattr(chain.node, "num_transactions", recent_counts)
        reverting = enqueue(sqlite_database, "b", "Parameters", "pauseCommits", 1)
        waiting = enqueue(sqlite_database, "c")
        sender(chain, sqlite_database).run_once()
    states = [state(sqlite_database, each).state for each in (lost, reverting, waiting)]
    assert states == [TransactionState.SENT, TransactionState.FAILED, TransactionState.SENT]


def test_a_call_with_more_value_than_the_account_has_lets_others_pass(
    chain: ChainClient,
    sqlite_database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A call behind it that reverts may depend on it, and waits too."""
    estimate = chain.estimate_gas

    def estimate_with_coin(*call: Any) -> int:
        if call[4] > chain.node.balance(OPERATOR.account):
            raise NotRun("insufficient funds for transfer")
        return estimate(*call)

    monkeypatch.setattr(chain, "estimate_gas", estimate_with_coin)
    dear = enqueue(sqlite_database, "a", value=10**30)
    dependent = enqueue(sqlite_database, "b", "Parameters", "pauseCommits", 1)
    other = enqueue(sqlite_database, "c")
    sending = sender(chain, sqlite_database)
    sending.run_once()
    states = [state(sqlite_database, each).state for each in (dear, dependent, other)]
    assert states == [TransactionState.QUEUED, TransactionState.QUEUED, TransactionState.SENT]
    sending.run_once()
    assert caplog.text.count(f"transaction {dear} waits for") == 1


def test_two_senders_that_find_the_same_used_nonce_send_the_call_once(
    chain: ChainClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The faster one queues the call again and sends it before the other one locks the lane."""
    before, transaction = dollars(chain), enqueue(database, "a")
    one, faster = sender(chain, database), sender(chain, database)
    finds: list[int] = []

    def find_while_the_other_is_faster(*args: Any) -> Hash32 | None:
        finds.append(args[2])
        found = find_by_nonce(*args)
        if len(finds) == 1:
            faster.run_once()
        return found

    with manual_mining(chain):
        one.run_once()
        ours = state(database, transaction)
        assert ours.hash is not None
        assert ours.nonce is not None
        chain.node.rpc.request("hardhat_dropTransaction", ours.hash)
        chain.node.broadcast(other_transaction(chain, ours.nonce))
        mine(chain, 1 + CONFIRMATIONS)
        monkeypatch.setattr("backend.chain.sending.outcomes.find_by_nonce", find_while_the_other_is_faster)
        one.run_once()
        mine(chain, 1 + CONFIRMATIONS)
    one.run_once()
    assert finds == [ours.nonce] * 2
    assert dollars(chain) == before + 1
    sent = state(database, transaction)
    assert (sent.state, sent.nonce) == (TransactionState.CONFIRMED, ours.nonce + 1)


def test_a_gap_before_a_stuck_transaction_is_filled(chain: ChainClient, database: Database) -> None:
    """Another process used a nonce, and then the pool dropped its transaction."""
    before = dollars(chain)
    with manual_mining(chain):
        gap = chain.node.num_transactions(OPERATOR.account)
        other = other_transaction(chain, gap)
        chain.node.broadcast(other)
        transaction = enqueue(database, "a")
        sender(chain, database).run_once()
        chain.node.rpc.request("hardhat_dropTransaction", to_hash(keccak(bytes.fromhex(other[2:]))))
        assert state(database, transaction).nonce == gap + 1
        for _ in range(2):  # a sender that is killed between the two filled nothing twice
            mine(chain, STUCK_BLOCKS)
            sender(chain, database).run_once()
        sender(chain, database).run_once()
        mine(chain, 2 + CONFIRMATIONS)
    sender(chain, database).run_once()
    assert state(database, transaction).state == TransactionState.CONFIRMED
    assert dollars(chain) == before + 1
    assert chain.node.num_transactions(OPERATOR.account) == gap + 2
    with database.read() as tx:
        assert tx.transactions.open(OPERATOR.account) == []


def test_a_missing_receipt_does_not_cause_a_second_transaction(
    chain: ChainClient, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, transaction = dollars(chain), enqueue(database, "a")
    sender(chain, database).run_once()
    mine(chain, CONFIRMATIONS)
    with monkeypatch.context() as patch:
        patch.setattr(chain.node, "tx_receipt", lambda _: None)
        sender(chain, database).run_once()
    assert state(database, transaction).state == TransactionState.SENT
    sender(chain, database).run_once()
    assert state(database, transaction).state == TransactionState.CONFIRMED
    assert dollars(chain) == before + 1


def test_a_transaction_dropped_by_a_deep_fork_is_mined_again(chain: ChainClient, database: Database) -> None:
    before, lost = dollars(chain), enqueue(database, "a")
    earlier = chain.node.rpc.request("evm_snapshot")
    sender(chain, database).run_once()
    mine(chain, CONFIRMATIONS)
    sender(chain, database).run_once()
    assert state(database, lost).state == TransactionState.CONFIRMED
    chain.node.rpc.request("evm_revert", earlier)
    waiting = enqueue(database, "b")
    for _ in range(4):
        sender(chain, database).run_once()
        mine(chain, STUCK_BLOCKS)
    sender(chain, database).run_once()
    assert {state(database, each).state for each in (lost, waiting)} == {TransactionState.CONFIRMED}
    assert dollars(chain) == before + 2


def test_unmined_transactions_are_limited(
    chain: ChainClient, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.chain.sending.sender.MAX_UNMINED", 2)
    ids = [enqueue(sqlite_database, f"mint {i}") for i in range(3)]
    with manual_mining(chain):
        sender(chain, sqlite_database).run_once()
    states = [state(sqlite_database, transaction).state for transaction in ids]
    assert states == [TransactionState.SENT, TransactionState.SENT, TransactionState.QUEUED]


def other_transaction(chain: ChainClient, nonce: int) -> str:
    """A transaction that another process sends with the operator's key."""
    unsigned = UnsignedTransaction(
        chain.chain_id, nonce, USER.account, b"", 21_000, chain.node.fees(), value=1
    )
    return sign(OPERATOR, unsigned).raw


def test_a_mined_failure_has_its_custom_error(chain: ChainClient, sqlite_database: Database) -> None:
    balance = dollars(chain)
    enqueue(sqlite_database, "a", "TestUSD", "approve", OPERATOR.account, balance, lane=USER.account)
    sender(chain, sqlite_database).run_once()
    taking = enqueue(sqlite_database, "b", "TestUSD", "transferFrom", USER.account, OPERATOR.account, balance)
    with manual_mining(chain):
        sender(chain, sqlite_database).run_once()
        assert state(sqlite_database, taking).state == TransactionState.SENT
        revoked = chain.prepare("TestUSD", "approve", OPERATOR.account, 0)
        fees, nonce = chain.node.fees(), chain.node.num_transactions(USER.account)
        unsigned = UnsignedTransaction(
            chain_id=chain.chain_id,
            nonce=nonce,
            to=chain.address("TestUSD"),
            data=to_bytes(revoked.data),
            gas=100_000,
            fees=Fees(10 * fees.max_fee, 10 * fees.priority_fee),
        )
        chain.node.broadcast(sign(USER, unsigned).raw)
        mine(chain, 1 + CONFIRMATIONS)
    sender(chain, sqlite_database).run_once()
    failed = state(sqlite_database, taking)
    assert failed.state == TransactionState.FAILED
    assert failed.error is not None
    assert failed.error["error"] == "ERC20InsufficientAllowance"


def test_a_failure_that_the_node_cannot_explain_stops_no_other_call(
    chain: ChainClient, sqlite_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that lacks the state of a new block is behind; that of an old one may be pruned."""
    failing = enqueue(sqlite_database, "a", "Parameters", "pauseCommits", 1)
    with monkeypatch.context() as patch:
        patch.setattr(chain, "estimate_gas", lambda *_: 200_000)
        sender(chain, sqlite_database).run_once()
    simulate = chain.simulate

    def without_states(*call: Any) -> bytes:
        if call[3] is not None:
            raise NotRun("missing trie node")
        return simulate(*call)

    monkeypatch.setattr(chain, "simulate", without_states)
    with pytest.raises(NotRun):
        sender(chain, sqlite_database).run_once()
    assert state(sqlite_database, failing).state == TransactionState.SENT
    mine(chain, NEW_BLOCKS)
    waiting = enqueue(sqlite_database, "b")
    sender(chain, sqlite_database).run_once()
    failed = state(sqlite_database, failing)
    assert failed.state == TransactionState.FAILED
    assert failed.error is not None
    assert "missing trie node" in failed.error["message"]
    assert state(sqlite_database, waiting).state == TransactionState.SENT


def test_a_transaction_dropped_by_a_reorg_is_mined_again(chain: ChainClient, database: Database) -> None:
    before, transaction = dollars(chain), enqueue(database, "a")
    earlier = chain.node.rpc.request("evm_snapshot")
    sender(chain, database).run_once()
    sender(chain, database).run_once()
    assert state(database, transaction).state == TransactionState.MINED
    chain.node.rpc.request("evm_revert", earlier)
    assert dollars(chain) == before
    for _ in range(3):
        sender(chain, database).run_once()
        mine(chain)
    assert state(database, transaction).state == TransactionState.CONFIRMED
    assert dollars(chain) == before + 1
