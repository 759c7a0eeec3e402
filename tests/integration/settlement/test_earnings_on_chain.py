"""Entries on the real contracts, through a void, a reorganisation that takes it back, and claims."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.chain.keys import recover
from backend.domain.batch import OperatorLedger
from backend.domain.earnings import EarningState
from backend.domain.hashing import to_hash
from backend.domain.money import UNIT
from backend.services.accounts.credit_walk import EarningsQuery
from backend.services.accounts.earned_receipt import EarnedReceipts
from backend.services.accounts.earnings import Earnings, EarningsBy
from backend.services.audit.cases import Cases
from backend.services.audit.earnings import PublishedEntries
from backend.services.background import Background
from tests.integration.settlement.conftest import WINDOW
from tests.integration.settlement.test_voids_on_chain import (
    OPERATOR,
    convict,
    demand_entries,
    run,
    settle,
    void,
)
from tests.support.auth import sign_in
from tools.local_market import CONTRIBUTORS

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.services.accounts.earnings import Totals
    from tests.integration.settlement.conftest import LiveMarket


def published(market: LiveMarket) -> PublishedEntries:
    cases = Cases(market.chain, market.blobs, recover, market.settlement)
    return PublishedEntries(market.database, cases, Background(wait_seconds=60))


def earnings(market: LiveMarket) -> Earnings:
    return Earnings(market.database, market.audits(), published(market))


def total(market: LiveMarket, account: Account) -> Totals:
    """The sum of the account's entries."""
    summary = earnings(market).summary(EarningsQuery(account), EarningsBy.OPERATOR, None)
    assert summary.unverifiable == ()
    (group,) = summary.groups
    return group


def assert_credited(market: LiveMarket) -> None:
    """The sums of all accounts make the balances that the newest batch has the root of, on the chain."""
    accounts = market.auditor().follow(OPERATOR).balances
    sums = {account: total(market, account).amount for account in accounts}
    with market.database.read() as tx:
        newest = tx.chain.valid_batches(OPERATOR)[-1]
    assert to_hash(OperatorLedger(balances=sums).balances_tree().root) == newest.header["balancesRoot"]
    state = market.chain.call("Settlement", "stateOf", OPERATOR)
    assert sum(sums.values()) == state["cumulativeTotal"]


def test_sums_follow_a_reorganisation_that_takes_a_void_back(market: LiveMarket) -> None:
    sign_in(market.database, CONTRIBUTORS[0].account)
    for _ in range(2):
        settle(market)
    asked, _ = demand_entries(market, 1)
    market.sleep(WINDOW // 8 + 1)
    fork = market.chain.node.rpc.request("evm_snapshot")
    void(market, asked, 1)
    run(market)
    assert_credited(market)
    market.chain.node.rpc.request("evm_revert", fork)
    market.chain.node.rpc.request("hardhat_mine", "0x20")
    market.indexer.catch_up()
    run(market, 4)
    assert_credited(market)


def test_credits_of_batches_that_were_settled_again_are_claimed_to_the_unit(market: LiveMarket) -> None:
    known, other = CONTRIBUTORS[0].account, CONTRIBUTORS[2].account
    sign_in(market.database, known)
    for _ in range(2):
        settle(market)
    convict(market, 2)
    run(market)
    assert_credited(market)
    market.sleep(WINDOW)
    run(market, 2)
    for account in (known, other):
        credited = total(market, account)
        assert credited.final == credited.amount
        market.claims().relay(OPERATOR, account)
        market.pump()
        with market.database.read() as tx:
            (claim,) = tx.chain.claims(account)
        assert total(market, account).claimed // UNIT * UNIT == claim.cumulative
        page = earnings(market).entries(EarningsQuery(account), None, 1)
        receipts = EarnedReceipts(market.database, market.audits(), published(market))
        shown = receipts.get(account, page.entries[0].earning.receipt_id)
        assert shown.state is EarningState.CLAIMED
