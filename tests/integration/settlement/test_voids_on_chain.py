"""A conviction on the real contracts, and the operator's recovery to an honest batch, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import local_account
from backend.domain.disputes.witnesses import Demand, Tree
from backend.domain.hashing import receipt_id
from backend.domain.ids import ZERO_HASH, Account
from backend.domain.settlement import BatchState, PaidSpan
from backend.services.settle.settler import Step

if TYPE_CHECKING:
    from backend.domain.channels import Channel
    from backend.domain.settlement import DemandStatus
    from tests.integration.settlement.conftest import LiveMarket

OPERATOR, CHALLENGER = local_account(1).account, local_account(5)
PAYERS = [local_account(7), local_account(8)]
WINDOW = 80
BOND = 10_000
"""Token units a key, by the local market's first parameter set."""


@pytest.fixture(autouse=True)
def _window(market: LiveMarket) -> None:
    market.change(disputeWindow=WINDOW)
    market.send(CHALLENGER, "TestUSD", "approve", market.chain.address("Disputes"), 10**12)
    market.indexer.catch_up()


def settle(market: LiveMarket, answers: int = 2) -> None:
    for n in range(answers):
        for payer in PAYERS:
            market.serve(payer, [market.adapter, market.base][n % 2 :], tokens=40 + n)
    assert market.settler().run_once(is_forced=True).step is Step.COMMITTING
    market.pump()


def run(market: LiveMarket, rounds: int = 6) -> None:
    for _ in range(rounds):
        market.settler().run_once(is_forced=True)
        market.pump()


def header_of(market: LiveMarket, number: int) -> dict[str, Any]:
    with market.database.read() as tx:
        batches = tx.chain.batches(OPERATOR)
    return next(dict(b.header) for b in reversed(batches) if b.number == number)


def demand_entries(market: LiveMarket, number: int) -> DemandStatus:
    """The first two entries of the treasury."""
    batch = market.auditor().batch(OPERATOR, number)
    keys = ["0x" + batch.entry_keys[i * 32 : i * 32 + 32].hex() for i in (0, 1)]
    header = header_of(market, number)
    market.send(CHALLENGER, "Disputes", "demand", header, Tree.ENTRIES.value, keys)
    market.indexer.catch_up()
    with market.database.read() as tx:
        (found,) = tx.chain.open_demands(OPERATOR)
    return found


def convict(market: LiveMarket, number: int) -> None:
    """Void the batch by an unanswered demand."""
    asked = demand_entries(market, number)
    market.sleep(WINDOW // 8 + 1)
    header = header_of(market, number)
    market.send(CHALLENGER, "Disputes", "voidUnanswered", asked.demand.abi, header)
    market.indexer.catch_up()


def answer(market: LiveMarket, asked: DemandStatus, place: int, number: int) -> None:
    batch = market.auditor().batch(OPERATOR, number)
    index = [int.from_bytes(batch.entry_keys[i : i + 32], "big") for i in (0, 32)].index(
        asked.demand.keys[place]
    )
    lookup = {
        "keys": ["0x" + batch.entry_keys[index * 32 : index * 32 + 32].hex()],
        "openings": [batch.entries_tree.open(index).abi],
    }
    header = header_of(market, number)
    market.send(local_account(1), "Disputes", "answer", asked.demand.abi, place, header, header, lookup)
    market.indexer.catch_up()


def channels(market: LiveMarket) -> dict[str, tuple[int, int]]:
    """Balance and collected line, as projected; held to what the vault says."""
    found = {}
    with market.database.read() as tx:
        known: list[Channel] = tx.chain.channels(operator=OPERATOR)
    for channel in known:
        on_chain = market.chain.call("PaymentVault", "channelOf", channel.id)
        assert (channel.balance, channel.collected) == (on_chain["balance"], on_chain["collected"])
        found[channel.id] = (channel.balance, channel.collected)
    return found


def states(market: LiveMarket) -> list[tuple[int, BatchState, bool]]:
    with market.database.read() as tx:
        return [(b.number, b.state, b.is_refunded) for b in tx.chain.batches(OPERATOR)]


def assert_settled(market: LiveMarket) -> None:
    """Every answer stands in exactly one right batch, and is marked so."""
    verdicts = list(market.auditor().audit(OPERATOR))
    assert all(verdict.is_right for verdict in verdicts)
    batches = [market.auditor().batch(OPERATOR, v.header.number) for v in verdicts]
    standing = [(receipt_id(s.receipt), b.number) for b in batches for s in b.receipts]
    assert sum(b.total for b in batches) == sum(market.cumulative.values())
    assert {c: collected for c, (_, collected) in channels(market).items()} == market.cumulative
    with market.database.read() as tx:
        assert list(tx.receipts.backlogs(OPERATOR)) == []
        for receipt, number in standing:
            stored = tx.receipts.get(receipt)
            assert stored is not None
            assert stored.batch == number
    state = market.chain.call("Settlement", "stateOf", OPERATOR)
    assert (state["last"], state["toRefund"]) == (len(batches), 0)
    assert state["cumulativeTotal"] == sum(market.cumulative.values())


def test_demands_and_answers_are_projected_with_the_calldata_of_each_answer(market: LiveMarket) -> None:
    settle(market)
    asked = demand_entries(market, 1)
    on_chain = market.chain.call("Disputes", "unansweredOf", asked.id)
    assert (on_chain, asked.unanswered) == (0b11, (0, 1))
    assert asked.demand.id == asked.id
    assert asked.demand.bond_units == BOND
    answer(market, asked, 1, 1)
    with market.database.read() as tx:
        (still,) = tx.chain.open_demands(OPERATOR)
        (shown,) = tx.chain.answers(asked.id)
    assert (still.unanswered, shown.key_index, shown.answerer) == ((0,), 1, OPERATOR)
    call = market.chain.decode(market.chain.address("Disputes"), shown.call)
    assert call["function"] == "answer"
    assert Demand.from_chain(call["args"]["demand_"]) == asked.demand
    answer(market, asked, 0, 1)
    with market.database.read() as tx:
        assert tx.chain.open_demands(OPERATOR) == []
        assert [a.key_index for a in tx.chain.answers(asked.id)] == [0, 1]
    market.sleep(WINDOW)
    assert market.settler().finalise() == 1


def test_a_held_batch_waits_and_those_before_it_become_final(market: LiveMarket) -> None:
    for _ in range(2):
        settle(market)
    asked = demand_entries(market, 2)
    market.sleep(WINDOW)
    assert market.settler().finalise() == 1
    market.pump()
    assert states(market)[:2] == [(1, BatchState.FINAL, False), (2, BatchState.COMMITTED, False)]
    assert market.settler().finalise() is None
    market.send(CHALLENGER, "Disputes", "voidUnanswered", asked.demand.abi, header_of(market, 2))
    market.indexer.catch_up()
    with market.database.read() as tx:
        assert tx.chain.open_demands(OPERATOR) == []
    run(market)
    assert_settled(market)


def test_voided_batches_are_refunded_to_the_unit_and_their_receipts_settled_again(
    market: LiveMarket,
) -> None:
    settle(market)
    before = channels(market)
    for _ in range(2):
        settle(market)
    convict(market, 2)
    with market.database.read() as tx:
        second, third = tx.chain.batches(OPERATOR)[1:]
        operator = tx.chain.operator(OPERATOR)
        spans = tx.chain.spans(third.hash)
    assert second.conviction == third.conviction
    assert second.conviction is not None
    assert (second.conviction.first, second.conviction.convicted) == (2, second.hash)
    assert (second.conviction.proof, second.conviction.challenger) == ("voidUnanswered", CHALLENGER.account)
    assert operator is not None
    stake = market.chain.call("OperatorRegistry", "stakeOf", OPERATOR)["stake"]
    assert operator.stake == stake
    assert {span.payer for span in spans} == {payer.account for payer in PAYERS}
    assert isinstance(spans[0], PaidSpan)

    progress = market.settler().run_once(is_forced=True)
    assert (progress.step, progress.number) == (Step.REFUNDING, 3)
    market.pump()
    assert states(market)[1:] == [(2, BatchState.VOID, True), (3, BatchState.VOID, True)]
    assert channels(market) == before
    run(market)
    assert_settled(market)
    market.sleep(WINDOW)
    run(market)
    with market.database.read() as tx:
        assert tx.chain.finalised(OPERATOR) == 2
    for found in market.claims().claimable(Account(CHALLENGER.account)):
        assert found.unverifiable is None


def test_a_void_of_the_first_batch_leads_back_to_the_beginning(market: LiveMarket) -> None:
    settle(market)
    convict(market, 1)
    run(market)
    assert_settled(market)
    assert header_of(market, 1)["parent"] == ZERO_HASH


@pytest.mark.parametrize("rounds", [0, 1, 2, 4])
def test_a_reorganisation_that_takes_the_void_back_leaves_the_batches_standing(
    market: LiveMarket, rounds: int
) -> None:
    """Whether their receipts were only released, the channels refunded, or a new batch committed."""
    for _ in range(2):
        settle(market)
    asked = demand_entries(market, 1)
    standing = states(market)
    market.sleep(WINDOW // 8 + 1)
    fork = market.chain.node.rpc.request("evm_snapshot")
    market.send(CHALLENGER, "Disputes", "voidUnanswered", asked.demand.abi, header_of(market, 1))
    market.indexer.catch_up()
    run(market, rounds)
    market.chain.node.rpc.request("evm_revert", fork)
    market.chain.node.rpc.request("hardhat_mine", "0x20")
    market.indexer.catch_up()
    assert states(market) == standing
    run(market, 4)
    assert states(market) == standing
    assert_settled(market)
