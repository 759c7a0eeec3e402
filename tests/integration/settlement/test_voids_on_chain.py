"""A conviction on the real contracts, and the operator's recovery to an honest batch, on both databases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import local_account
from backend.domain.disputes.witnesses import Tree, key_word, leaf_id
from backend.domain.hashing import receipt_id
from backend.domain.ids import ZERO_HASH, Account
from backend.domain.settlement import BatchState, PaidSpan
from backend.services.settle.settler import Step
from tests.integration.settlement.conftest import WINDOW

if TYPE_CHECKING:
    from backend.domain.channels import Channel
    from backend.domain.settlement import Demand
    from tests.integration.settlement.conftest import LiveMarket

OPERATOR, CHALLENGER = local_account(1).account, local_account(5)
PAYERS = [local_account(7), local_account(8)]


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


def demand_entries(market: LiveMarket, number: int) -> list[Demand]:
    """Demand the first two entries, those of the treasury."""
    batch = market.auditor().batch(OPERATOR, number)
    keys = batch.entries.keys[:2]
    market.demand(CHALLENGER, header_of(market, number), Tree.ENTRIES, keys)
    market.indexer.catch_up()
    with market.database.read() as tx:
        return tx.chain.open_demands(OPERATOR)


def void(market: LiveMarket, asked: Demand, number: int) -> None:
    leaf = (int(asked.tree), key_word(asked.key))
    market.send(CHALLENGER, "Disputes", "voidUnanswered", header_of(market, number), *leaf)
    market.indexer.catch_up()


def convict(market: LiveMarket, number: int) -> None:
    """Void the batch by an unanswered demand."""
    asked, _ = demand_entries(market, number)
    market.sleep(WINDOW // 8 + 1)
    void(market, asked, number)


def answer(market: LiveMarket, asked: Demand, number: int) -> None:
    batch = market.auditor().batch(OPERATOR, number)
    keys = batch.entries.keys[:2]
    opening = batch.entries_tree.open(keys.index(asked.key))
    lookup = {"keys": [key_word(asked.key)], "openings": [opening.abi]}
    header = header_of(market, number)
    leaf = (int(asked.tree), key_word(asked.key))
    market.send(local_account(1), "Disputes", "answer", header, *leaf, header, lookup)
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
    for one in asked:
        leaf = (one.batch_hash, int(one.tree), key_word(one.key))
        on_chain = market.chain.call("Disputes", "demandOf", *leaf)
        assert one.leaf_id == leaf_id(one.batch_hash, one.tree, one.key)
        assert (one.challenger, one.bond) == (on_chain["challenger"], on_chain["bond"])
        assert (one.deadline, one.deadline_block) == (on_chain["deadline"], on_chain["deadlineBlock"])
    answer(market, asked[1], 1)
    with market.database.read() as tx:
        assert tx.chain.open_demands(OPERATOR) == asked[:1]
        (shown,) = tx.chain.answers(asked[0].batch_hash)
    assert shown.leaf_id == asked[1].leaf_id
    call = market.chain.decode(market.chain.address("Disputes"), shown.call)
    assert (call["function"], call["args"]["key"]) == ("answer", key_word(asked[1].key))
    answer(market, asked[0], 1)
    with market.database.read() as tx:
        assert tx.chain.open_demands(OPERATOR) == []
        assert len(tx.chain.answers(asked[0].batch_hash)) == 2
    market.sleep(WINDOW + WINDOW // 8)
    assert market.settler().finalise() == 1


def test_a_held_batch_waits_and_those_before_it_become_final(market: LiveMarket) -> None:
    for _ in range(2):
        settle(market)
    asked, _ = demand_entries(market, 2)
    market.sleep(WINDOW)
    assert market.settler().finalise() == 1
    market.pump()
    assert states(market)[:2] == [(1, BatchState.FINAL, False), (2, BatchState.COMMITTED, False)]
    assert market.settler().finalise() is None
    void(market, asked, 2)
    with market.database.read() as tx:
        assert tx.chain.open_demands(OPERATOR) == []
    run(market)
    assert_settled(market)


def test_voided_batches_are_refunded_to_the_unit_and_their_receipts_settled_again(
    market: LiveMarket,
) -> None:
    before = channels(market)
    for _ in range(3):
        settle(market)
    convict(market, 2)
    with market.database.read() as tx:
        first, second, third = tx.chain.batches(OPERATOR)
        operator = tx.chain.operator(OPERATOR)
        spans = tx.chain.spans(third.hash)
    assert first.conviction == second.conviction == third.conviction
    assert second.conviction is not None
    assert (second.conviction.first, second.conviction.convicted) == (1, second.hash)
    assert (second.conviction.proof, second.conviction.challenger) == ("voidUnanswered", CHALLENGER.account)
    assert operator is not None
    stake = market.chain.call("OperatorRegistry", "stakeOf", OPERATOR)["stake"]
    assert operator.stake == stake
    assert {span.payer for span in spans} == {payer.account for payer in PAYERS}
    assert isinstance(spans[0], PaidSpan)

    progress = market.settler().run_once(is_forced=True)
    assert (progress.step, progress.number) == (Step.REFUNDING, 3)
    market.pump()
    assert states(market) == [(number, BatchState.VOID, True) for number in (1, 2, 3)]
    assert channels(market) == before
    run(market)
    assert_settled(market)
    market.sleep(WINDOW)
    run(market)
    with market.database.read() as tx:
        assert tx.chain.finalised(OPERATOR) == 1
    for found in market.claims().claimable(Account(CHALLENGER.account)).found:
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
    asked, _ = demand_entries(market, 1)
    standing = states(market)
    market.sleep(WINDOW // 8 + 1)
    fork = market.chain.node.rpc.request("evm_snapshot")
    void(market, asked, 1)
    run(market, rounds)
    market.chain.node.rpc.request("evm_revert", fork)
    market.chain.node.rpc.request("hardhat_mine", "0x20")
    market.indexer.catch_up()
    assert states(market) == standing
    run(market, 4)
    assert states(market) == standing
    assert_settled(market)
