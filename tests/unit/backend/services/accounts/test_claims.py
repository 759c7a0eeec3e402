from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.batch import Header
from backend.domain.earnings import Credit, Earning
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.ids import ZERO_HASH, ReceiptId, VersionId
from backend.domain.money import AMOUNT, UNIT
from backend.domain.registries import Operator
from backend.domain.settlement import Claim
from backend.services.accounts.claims import Claims, NothingToClaim, OperatorCursor
from backend.services.accounts.credit_walk import EarningsQuery
from backend.services.audit.auditor import Auditor, WrongBatch
from backend.services.audit.background import BackgroundAudits
from backend.services.background import Background
from tests.support.chain_events import ALICE, BOB, OPERATOR, committed, final, take_in, voided, word
from tests.support.chain_view import batches_read
from tests.support.market import some_account, some_hash
from tests.support.relays import relays_of
from tests.support.settlement_harness import SettlementHarness
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.batch import OperatorLedger
    from backend.domain.errors import DomainError
    from backend.domain.ids import Account


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    """Prices are such that a dozen answers earn everybody some units."""
    harness = SettlementHarness(tmp_path, max_price=2_000_000)
    yield harness
    harness.database.close()


def finalise(harness: SettlementHarness, answers: int) -> None:
    for _ in range(answers):
        harness.serve()
    harness.settler().run_once(is_forced=True)
    harness.mine()
    harness.chain.time += 60
    harness.settler().finalise()
    harness.mine()


def earners(harness: SettlementHarness) -> dict[Account, int]:
    ledger = harness.auditor().follow(harness.market.operator)
    return {account: amount for account, amount in ledger.balances.items() if amount >= UNIT}


def test_a_claim_reads_the_newest_final_batch_alone(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        finalise(harness, 6)
    account = next(iter(earners(harness)))
    read = batches_read(harness.chain, monkeypatch)
    assert harness.claims().claimable(account).found[0].unverifiable is None
    harness.claims().prepare(harness.market.operator, account)
    assert set(read) == {3}


def test_everybody_who_earned_a_unit_is_paid_in_whole_units(harness: SettlementHarness) -> None:
    finalise(harness, 12)
    expected = earners(harness)
    assert len(expected) > 3
    for account in expected:
        harness.claims().relay(harness.market.operator, account)
    assert harness.mine() == len(expected)
    for account, earned in expected.items():
        (claim,) = harness.chain.claims(account)
        assert claim.amount == earned // UNIT * UNIT


def test_only_the_increase_is_claimed_the_next_time(harness: SettlementHarness) -> None:
    operator = harness.market.operator
    finalise(harness, 12)
    account = max(earners(harness), key=lambda a: earners(harness)[a])
    harness.claims().relay(operator, account)
    harness.mine()
    with pytest.raises(NothingToClaim):
        harness.claims().relay(operator, account)
    finalise(harness, 12)
    (found,) = harness.claims().claimable(account).found
    assert found.claimed == harness.chain.claims(account)[0].cumulative
    harness.claims().relay(operator, account)
    harness.mine()
    paid = sum(claim.amount for claim in harness.chain.claims(account))
    assert 0 <= earners(harness)[account] - paid < UNIT


def test_claims_are_cumulative_so_that_the_largest_one_is_what_was_claimed(
    harness: SettlementHarness,
) -> None:
    finalise(harness, 12)
    account = max(earners(harness), key=lambda a: earners(harness)[a])
    for _ in range(2):
        harness.claims().relay(harness.market.operator, account)
        assert harness.mine() == 1
        finalise(harness, 12)
    first, second = harness.chain.claims(account)
    assert 0 < first.cumulative < second.cumulative
    (found,) = harness.claims().claimable(account).found
    assert (found.claimed, found.cumulative) == (second.cumulative, earners(harness)[account])


def test_a_claim_from_another_operator_leaves_what_this_one_owes(harness: SettlementHarness) -> None:
    finalise(harness, 12)
    account, earned = next(iter(earners(harness).items()))
    harness.chain.paid.append(Claim(some_account("other"), account, account, 1, earned, ZERO_HASH, 1))
    (found,) = harness.claims().claimable(account).found
    assert (found.claimed, found.unclaimed) == (0, earned)
    prepared = harness.claims().prepare(harness.market.operator, account)
    assert prepared.decoded["args"][0]["account"] == account


def test_a_claim_is_relayed_for_who_asks_and_pays_the_account(harness: SettlementHarness) -> None:
    finalise(harness, 12)
    account, stranger = next(iter(earners(harness))), some_account("stranger")
    queued = harness.claims().relay(harness.market.operator, account, requester=stranger)
    with harness.db.read() as tx:
        assert tx.transactions.is_requested(stranger, queued)
        assert not tx.transactions.is_requested(account, queued), "else strangers use up its share"
    harness.mine()
    assert harness.chain.claims(account)


def test_the_same_claim_is_sent_once(harness: SettlementHarness) -> None:
    finalise(harness, 12)
    account = next(iter(earners(harness)))
    rows = {harness.claims().relay(harness.market.operator, account) for _ in range(2)}
    assert len(rows) == 1


def test_a_claim_that_failed_can_be_sent_again(harness: SettlementHarness) -> None:
    finalise(harness, 12)
    account = next(iter(earners(harness)))
    first = harness.claims().relay(harness.market.operator, account)
    harness.chain.final = 0
    assert harness.mine() == 0
    harness.chain.final = 1
    assert harness.claims().relay(harness.market.operator, account) != first
    assert harness.mine() == 1


def test_earnings_that_are_not_final_cannot_be_claimed(harness: SettlementHarness) -> None:
    harness.serve()
    harness.settler().run_once(is_forced=True)
    harness.mine()
    assert harness.claims().claimable(some_account("treasury")).found == ()
    with pytest.raises(NothingToClaim):
        harness.claims().relay(harness.market.operator, some_account("treasury"))


def test_less_than_the_threshold_stays_credited(harness: SettlementHarness) -> None:
    finalise(harness, 4)
    operator = harness.market.operator
    (found,) = harness.claims().claimable(operator).found
    with pytest.raises(NothingToClaim) as caught:
        harness.claims().relay(operator, operator, found.units + 1)
    minimum = (found.units + 1) * UNIT
    assert caught.value.details == {
        "unclaimed": AMOUNT.render(found.unclaimed),
        "minimum": AMOUNT.render(minimum),
    }


def test_a_prepared_claim_is_simulated_for_its_sender(harness: SettlementHarness) -> None:
    finalise(harness, 12)
    account = next(iter(earners(harness)))
    prepared = harness.claims().prepare(harness.market.operator, account, sender=account)
    assert prepared.decoded["args"][0]["account"] == account


def commit_without_data(harness: SettlementHarness, *names: str) -> list[Account]:
    """A final batch of each of these operators, before all others, whose data nobody has."""
    (batch, *_), operators = harness.chain.committed, [some_account(name) for name in names]
    for operator in operators:
        harness.chain.others.append(Operator(operator, "", (), 0))
        header = {**batch.header, "operator": operator, "dataDigest": some_hash("unavailable data")}
        found = replace(batch, operator=operator, header=header, hash=Header.from_chain(header).hash)
        harness.chain.committed.insert(len(harness.chain.committed) - 1, found)
    return operators


def test_a_page_verifies_its_own_operators_and_begins_with_those_that_credited_the_account(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    account, honest = some_account("treasury"), harness.market.operator
    harness.sign_in(account)
    finalise(harness, 12)
    harness.claims().relay(honest, account)
    harness.mine()
    others = commit_without_data(harness, "a", "b", "c")
    followed, follow = [], BackgroundAudits.follow

    def spied(self: BackgroundAudits, operators: Sequence[Account], **options: Any) -> Any:
        followed.append(list(operators))
        return follow(self, operators, **options)

    monkeypatch.setattr(BackgroundAudits, "follow", spied)
    pages = [harness.claims().claimable(account, limit=2)]
    while rest := pages[-1].rest:
        pages.append(harness.claims().claimable(account, OperatorCursor.parse(str(rest)), limit=2))
    assert [[one.operator for one in page.found] for page in pages] == [[honest, others[0]], others[1:]]
    assert followed == [[others[0]], others[1:]]
    assert pages[0].found[0].claimed > 0
    assert pages[0].found[0] == harness.claims().claimable_from(honest, account)


def test_a_void_during_a_walk_hides_and_repeats_no_operator(sqlite_database: Database) -> None:
    account, operators = some_account("earner"), [ALICE, BOB, OPERATOR]
    version = VersionId(word(0))
    with sqlite_database.begin() as tx:
        for n, operator in enumerate(operators, 1):
            take_in(tx, committed(1, n, operator), final(1, n, operator), committed(2, 10 + n, operator))
            entry = Earning(0, 0, 2, ReceiptId(word(n)), version, None, None, amount=n)
            credit = Credit(account, operator, 2, word(10 + n), 0, num_entries=1, amount=n, balance=n)
            tx.earnings.add([(credit, [entry])])

    class NoData:
        def follow(self, behind: Sequence[Account], **_: Any) -> dict[Account, DomainError]:
            return {operator: Unavailable("its data is missing") for operator in behind}

    unused: Any = None
    claims = Claims(sqlite_database, NoData(), unused, unused)  # type: ignore[arg-type]
    pages = [claims.claimable(account, limit=1)]
    with sqlite_database.begin() as tx:
        take_in(tx, voided(2, 2, 13, OPERATOR))
    while rest := pages[-1].rest:
        pages.append(claims.claimable(account, OperatorCursor.parse(str(rest)), limit=1))
    assert [one.operator for page in pages for one in page.found] == [OPERATOR, BOB, ALICE]


def test_operators_that_credit_the_account_during_a_walk_are_listed_once(harness: SettlementHarness) -> None:
    account, honest = some_account("treasury"), harness.market.operator
    finalise(harness, 12)
    others = commit_without_data(harness, "a", "b")
    first = harness.claims().claimable(account, limit=1)
    harness.sign_in(account)
    assert harness.earnings().entries(EarningsQuery(account, operator=honest), None, 1).entries
    assert [one.operator for one in harness.claims().claimable(account, limit=1).found] == [honest]
    second = harness.claims().claimable(account, first.rest)
    assert [one.operator for one in (*first.found, *second.found)] == [*others, honest]


def test_a_cursor_of_an_operator_without_a_batch_is_refused(harness: SettlementHarness) -> None:
    with pytest.raises(InvalidInput, match="omit `after`"):
        harness.claims().claimable(some_account("a"), OperatorCursor(0, 0, some_account("b")))


@pytest.mark.parametrize("is_wrong", [False, True])
def test_an_operator_that_cannot_be_verified_does_not_hide_what_others_owe(
    harness: SettlementHarness, is_wrong: bool
) -> None:
    finalise(harness, 12)
    account = next(iter(earners(harness)))
    (honest,) = harness.claims().claimable(account).found
    other = some_account("another operator")
    harness.chain.others.append(Operator(other, "", (), 0))
    (batch,) = harness.chain.committed
    lost = batch.header["dataDigest"] if is_wrong else some_hash("unavailable data")
    header = {**batch.header, "operator": other, "dataDigest": lost}
    harness.chain.committed.append(
        replace(batch, operator=other, header=header, hash=Header.from_chain(header).hash)
    )
    same, found = harness.claims().claimable(account).found
    assert same == honest
    assert (found.operator, found.unclaimed) == (other, 0)
    assert found.unverifiable is not None
    assert ("is wrong: the batch data names" if is_wrong else "the batch data") in found.unverifiable
    with pytest.raises(WrongBatch):
        harness.claims().relay(other, account)


def test_an_account_that_never_earned_has_nothing_to_claim(harness: SettlementHarness) -> None:
    finalise(harness, 3)
    assert harness.claims().claimable(some_account("another account")).found == ()


def test_finding5_missing_data_of_a_later_final_batch_keeps_nothing_back(harness: SettlementHarness) -> None:
    finalise(harness, 12)
    account, earned = next(iter(earners(harness).items()))
    (batch,) = harness.chain.committed
    header = {**batch.header, "number": 2, "parent": batch.hash, "dataDigest": some_hash("lost data")}
    hidden = replace(batch, number=2, header=header, hash=Header.from_chain(header).hash)
    harness.chain.committed.append(hidden)
    harness.chain.final = 2
    (found,) = harness.claims().claimable(account).found
    assert (found.cumulative, found.claimed) == (earned, 0)
    assert "the batch data" in (found.unverifiable or "")
    harness.claims().relay(harness.market.operator, account)
    assert harness.mine() == 1
    (claim,) = harness.chain.claims(account)
    assert claim.amount == earned // UNIT * UNIT


def test_finding5_a_batch_that_becomes_final_in_between_does_not_fail_a_claim(
    harness: SettlementHarness,
) -> None:
    finalise(harness, 12)
    account = next(iter(earners(harness)))
    harness.claims().relay(harness.market.operator, account)
    finalise(harness, 12)
    assert harness.chain.final == 2
    assert len(harness.chain.claims(account)) == 1


def test_a_claim_waits_for_an_audit_and_is_not_taken_for_an_empty_one(harness: SettlementHarness) -> None:
    finalise(harness, 12)
    account, operator = next(iter(earners(harness))), harness.market.operator
    harness.claims().relay(operator, account)
    harness.mine()
    finalise(harness, 12)
    may_end = threading.Event()

    class SlowAuditor(Auditor):
        def follow(self, *arguments: Any) -> OperatorLedger:
            may_end.wait(60)
            return super().follow(*arguments)

    auditor = SlowAuditor(harness.db, harness.auditor()._cases)
    audits = BackgroundAudits(harness.db, auditor, Background(wait_seconds=0))
    claims = Claims(harness.db, audits, harness.chain, relays_of(harness.db, harness.chain, operator))  # type: ignore[arg-type]
    try:
        (found,) = claims.claimable(account).found
        assert "still being fetched" in str(found.unverifiable)
        with pytest.raises(Unavailable, match="still being fetched"):
            claims.relay(operator, account, min_units=10**9)
    finally:
        may_end.set()
    wait_for(lambda: claims.claimable(account).found[0].unverifiable is None)
    claims.relay(operator, account)
    assert harness.mine() == 1
