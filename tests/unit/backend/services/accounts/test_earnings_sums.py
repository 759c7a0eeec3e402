"""At every step of a random history, entries sum up to what the roots of the settlement credit."""

from __future__ import annotations

import shutil
import tempfile
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from backend.domain.batch import OperatorLedger
from backend.domain.earnings import EarningsBy, EarningState
from backend.domain.entries import entry_key
from backend.domain.hashing import to_bytes, to_hash
from backend.domain.merkle import ENTRIES_TAG, SumTree
from backend.domain.money import UNIT
from backend.services.accounts.claims import NothingToClaim
from backend.services.accounts.credit_walk import EarningsQuery
from tests.support.market import some_account
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import CrashingDatabase, SimulatedCrash

if TYPE_CHECKING:
    from backend.domain.ids import Account
    from backend.services.accounts.earnings import ListedEarning, Totals

EARNERS = [
    some_account(name)
    for name in (
        "treasury",
        "operator",
        *(f"creator {n}" for n in range(4)),
        *(f"contributor {n}" for n in range(2, 5)),
    )
]


class History(RuleBasedStateMachine):
    """Answers, batches, voids and settling again, finality, claims, reorganisations, sign-ins, crashes."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.harness = SettlementHarness(self.folder, max_price=500_000)
        self.earnings = self.harness.earnings()
        self.fork: dict[str, Any] | None = None
        for account in EARNERS[:5]:
            self.harness.sign_in(account)

    def teardown(self) -> None:
        self.harness.database.close()
        shutil.rmtree(self.folder)

    @rule(account=st.sampled_from(EARNERS[5:]))
    def sign_in(self, account: Account) -> None:
        self.harness.sign_in(account)

    @rule(count=st.integers(1, 3))
    def settle(self, count: int) -> None:
        for _ in range(count):
            self.harness.serve()
        self.harness.settler().run_once(is_forced=True)
        self.harness.mine()

    @rule(at=st.integers(1, 9))
    def settle_and_crash(self, at: int) -> None:
        self.harness.serve()
        auditor = self.harness.auditor()
        auditor._db = CrashingDatabase(self.harness, [at])
        try:
            self.harness.settler(auditor=auditor).run_once(is_forced=True)
        except SimulatedCrash:
            self.harness.settler().run_once(is_forced=True)
        self.harness.mine()

    @rule()
    def finalise(self) -> None:
        self.harness.chain.time += 60
        self.harness.settler().finalise()
        self.harness.mine()

    @precondition(lambda self: self.harness.chain.final < len(self.harness.chain.standing()))
    @rule()
    def void(self) -> None:
        self.harness.chain.convict(self.harness.chain.final + 1)

    @rule(account=st.sampled_from(EARNERS))
    def claim(self, account: Account) -> None:
        try:
            self.harness.claims().relay(self.harness.market.operator, account)
        except NothingToClaim:
            return
        self.harness.mine()

    @rule()
    def remember(self) -> None:
        self.fork = self.harness.chain.fork()

    @precondition(lambda self: self.fork is not None)
    @rule()
    def reorganise(self) -> None:
        assert self.fork is not None
        self.harness.chain.return_to(self.fork)

    @invariant()
    def entries_are_what_the_roots_credit(self) -> None:
        chain = self.harness.chain
        found = {account: self.listed(account) for account in EARNERS}
        standing = chain.standing()
        final = [batch for batch in standing if batch.number <= chain.final]
        self.compare(found, standing[-1:], set(EarningState))
        self.compare(found, final[-1:], {EarningState.FINAL, EarningState.CLAIMED})
        claimed = chain.claimed(self.harness.market.operator)
        for account in EARNERS:
            assert_balances(found[account])
            paid = _sum(found[account], {EarningState.CLAIMED})
            assert paid // UNIT * UNIT == claimed.get(account, 0)
        for batch in standing:
            listed = [e for entries in found.values() for e in entries if e.credit.batch_hash == batch.hash]
            assert _entries_root(listed) == batch.header["entriesRoot"]

    @invariant()
    def summaries_are_sums_of_the_entries(self) -> None:
        for account in (EARNERS[0], EARNERS[-1]):
            listed = self.listed(account)
            for by in EarningsBy:
                groups = self.summed(account, by)
                assert sum(group.amount for group in groups) == _sum(listed, set(EarningState))
                assert sum(group.num_entries for group in groups) == len(listed)

    def listed(self, account: Account) -> list[ListedEarning]:
        """All entries, by pages of three."""
        found: list[ListedEarning] = []
        page = self.earnings.entries(EarningsQuery(account), None, 3)
        while page.rest is not None:
            found += page.entries
            page = self.earnings.entries(EarningsQuery(account), page.rest, 3)
        assert page.unverifiable == ()
        return [*found, *page.entries]

    def summed(self, account: Account, by: EarningsBy) -> list[Totals]:
        """The groups of all pages."""
        summary = self.earnings.summary(EarningsQuery(account), by, None)
        groups = list(summary.groups)
        while summary.rest is not None:
            summary = self.earnings.summary(EarningsQuery(account), by, summary.rest)
            groups += summary.groups
        return groups

    def compare(
        self, found: dict[Account, list[ListedEarning]], newest: list[Any], states: set[EarningState]
    ) -> None:
        """With the balances of the newest of some batches."""
        sums = {account: _sum(entries, states) for account, entries in found.items()}
        sums = {account: amount for account, amount in sums.items() if amount}
        if not newest:
            assert not sums
            return
        tree, header = OperatorLedger(balances=sums).balances_tree(), newest[0].header
        assert (to_hash(tree.root), tree.count) == (header["balancesRoot"], header["balancesCount"])


def assert_balances(entries: list[ListedEarning]) -> None:
    """The balance after each batch is what it and the older ones credit."""
    balance = 0
    for _, batch in groupby(reversed(entries), key=lambda entry: entry.credit.number):
        listed = list(batch)
        balance += sum(entry.earning.amount for entry in listed)
        assert {entry.credit.balance for entry in listed} == {balance}


def _sum(entries: list[ListedEarning], states: set[EarningState]) -> int:
    return sum(entry.earning.amount for entry in entries if entry.state in states)


def _entries_root(listed: list[ListedEarning]) -> str:
    leaves = sorted(
        (entry_key(to_bytes(e.credit.account), e.earning.receipt, e.earning.slice, e.earning.part), e.earning)
        for e in listed
    )
    return to_hash(SumTree(ENTRIES_TAG, ((key, earning.amount) for key, earning in leaves)).root)


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=8, stateful_step_count=12, deadline=None)
