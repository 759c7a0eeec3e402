"""Settler, sender, indexer, auditor and claims on the real contracts, on both databases."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.indexer import Indexer
from backend.chain.keys import local_account
from backend.domain.batch_data import FILE_NAME, decode
from backend.domain.content import cid_of
from backend.domain.errors import NotFound
from backend.domain.hashing import receipt_id
from backend.domain.money import PPM, UNIT
from backend.domain.receipt import Share
from backend.domain.settlement import BatchState
from backend.services.accounts.claims import NothingToClaim
from backend.services.settle.settler import Step
from tests.integration.settlement.conftest import WINDOW
from tests.support.empty_databases import open_empty
from tests.support.market import some_hash

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Account
    from tests.integration.settlement.conftest import LiveMarket

OPERATOR = local_account(1).account


def users() -> dict[str, Any]:
    names = "council operator receipt_key first second third creator payer other_payer"
    return {name: local_account(n) for n, name in enumerate(names.split())}


def dollars(market: LiveMarket, account: Account) -> int:
    balance: int = market.chain.call("TestUSD", "balanceOf", account)
    return balance


def settle(market: LiveMarket) -> None:
    assert market.settler().run_once(is_forced=True).step is Step.COMMITTING
    market.pump()


def serve_all(market: LiveMarket) -> None:
    who = users()
    for n in range(6):
        market.serve(who["payer"], [market.adapter, market.base][n % 2 :], tokens=40 + n)
        market.serve(who["other_payer"], [market.adapter])


def test_money_travels_from_payers_to_everybody_who_earned_it(market: LiveMarket) -> None:
    who = users()
    serve_all(market)
    settle(market)
    with market.database.read() as tx:
        (batch,) = tx.chain.batches(OPERATOR)
        assert all(tx.chain.channel(c).collected == line for c, line in market.cumulative.items())
    (verdict,) = market.auditor().audit(OPERATOR)
    assert verdict.is_right
    assert verdict.header.total == sum(market.cumulative.values())

    market.sleep(WINDOW)
    assert market.settler().finalise() == 1
    market.pump()
    ledger = market.auditor().follow(OPERATOR)
    assert set(ledger.balances) == {
        who[name].account for name in ("council", "operator", "first", "third", "creator")
    }
    before = {account: dollars(market, account) for account in ledger.balances}
    for account in ledger.balances:
        market.claims().relay(OPERATOR, account)
    market.pump()
    for account, earned in ledger.balances.items():
        assert dollars(market, account) - before[account] == earned // UNIT
        (found,) = market.claims().claimable(account).found
        assert found.unclaimed == earned % UNIT
        with pytest.raises(NothingToClaim):
            market.claims().relay(OPERATOR, account)
    pot = market.chain.call("PaymentVault", "potOf", market.settlement.contract, OPERATOR)
    assert pot == sum(earned % UNIT for earned in ledger.balances.values())
    assert batch.number == 1


def test_every_receipt_and_entry_of_a_batch_is_verified_on_chain(market: LiveMarket) -> None:
    serve_all(market)
    settle(market)
    batch, proofs = market.auditor().batch(OPERATOR, 1), market.proofs()
    for signed in batch.receipts:
        assert proofs.verify_receipt(OPERATOR, 1, receipt_id(signed.receipt))
    for entry in batch.entries.of(users()["third"].account):
        assert proofs.verify_entry(OPERATOR, 1, entry)
        assert not proofs.verify_entry(OPERATOR, 1, replace(entry, value=entry.value + 1))
    with pytest.raises(NotFound):
        proofs.verify_receipt(OPERATOR, 1, some_hash("never served"))
    with pytest.raises(NotFound):
        proofs.verify_receipt(OPERATOR, 2, receipt_id(batch.receipts[0].receipt))


def test_a_receipt_that_pays_a_rejected_contribution_is_not_settled(market: LiveMarket) -> None:
    payer = users()["other_payer"]
    good = market.serve(payer, [market.adapter])
    market.serve(payer, [market.adapter], shares=(Share(1, PPM),))
    progress = market.settler().run_once(is_forced=True)
    assert "position 1 is outside" in progress.skipped[good.receipt.channel_id]
    market.pump()
    assert market.auditor().batch(OPERATOR, 1).receipts == (good,)


def test_batches_follow_each_other_and_pay_only_the_increase(market: LiveMarket) -> None:
    who = users()
    first = who["first"].account
    start = dollars(market, first)
    for _ in range(2):
        serve_all(market)
        settle(market)
        market.sleep(WINDOW)
        market.settler().finalise()
        market.pump()
        market.claims().relay(OPERATOR, first)
        market.pump()
    ledger = market.auditor().follow(OPERATOR)
    assert ledger.number == 2
    assert dollars(market, first) - start == ledger.balances[first] // UNIT


def test_a_vote_between_build_and_commit_rebuilds_the_batch_with_the_new_fee(market: LiveMarket) -> None:
    serve_all(market)
    assert market.settler().run_once(is_forced=True).step is Step.COMMITTING
    market.change(feePpm=100_000)
    market.pump()
    settle(market)
    with market.database.read() as tx:
        (batch,) = tx.chain.batches(OPERATOR)
        terms = tx.chain.parameter_set(batch.header["parameterSet"])
    assert terms.fee_ppm == 100_000
    (verdict,) = market.auditor().audit(OPERATOR)
    assert verdict.is_right


def test_another_installation_audits_from_chain_and_public_data_alone(
    market: LiveMarket, tmp_path: Path
) -> None:
    serve_all(market)
    settle(market)
    other = open_empty(tmp_path / "other.db")
    Indexer(market.chain, other.event_log, market.chain.deployment, confirmations=0).catch_up()
    (verdict,) = market.auditor(other).audit(OPERATOR)
    assert verdict.is_right
    assert market.auditor(other).follow(OPERATOR) == market.auditor().follow(OPERATOR)
    other.close()


def test_the_published_data_holds_every_receipt_that_was_served(market: LiveMarket) -> None:
    serve_all(market)
    settle(market)
    with market.database.read() as tx:
        (batch,) = tx.chain.batches(OPERATOR)
        assert batch.state is BatchState.COMMITTED
    _, receipts = decode(market.blobs.read(cid_of(batch.header["dataDigest"]), FILE_NAME))
    assert len(receipts) == 12
    assert sum(signed.receipt.charge for signed in receipts) == sum(market.cumulative.values())
