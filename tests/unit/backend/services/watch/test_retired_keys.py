"""What the watcher reports of retired receipt keys (finding 4)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.judging.judge import judge
from backend.services.audit.cases import Cases
from backend.services.watch.retired_keys import disowned, retirements
from backend.services.watch.watcher import Watcher
from tests.support.market import Key, recover, some_account, some_hash
from tests.support.settlement_harness import SettlementHarness
from tests.support.settlement_steps import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from backend.domain.receipt import SignedReceipt
    from backend.services.watch.news import News

NEXT = Key("next receipt key")


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path)
    yield harness
    harness.database.close()


def retire(harness: SettlementHarness) -> None:
    harness.chain.keys = [NEXT.account]
    harness.chain.retired = {harness.market.receipt_key.account: harness.chain.time}
    harness.chain.time += 1


def signed_again(harness: SettlementHarness, signed: SignedReceipt) -> SignedReceipt:
    return replace(signed, signature=NEXT.sign(harness.market.domain.receipt_digest(signed.receipt)))


def cases(harness: SettlementHarness) -> Cases:
    return Cases(harness.chain, harness.blobs, recover, harness.market.domain)


def reported(harness: SettlementHarness, *evidence: SignedReceipt) -> list[str]:
    found = retirements(harness.chain, cases(harness), harness.market.operator, evidence)
    return [one.what for one in found]


def found_disowned(harness: SettlementHarness, evidence: Sequence[SignedReceipt]) -> list[News]:
    committed = harness.chain.committed[-1]
    batch = harness.auditor().batch(harness.market.operator, committed.number)
    return list(disowned(harness.chain, cases(harness), committed, batch, evidence))


def test_a_retirement_is_reported(harness: SettlementHarness) -> None:
    assert reported(harness) == []
    retire(harness)
    (news,) = retirements(harness.chain, cases(harness), harness.market.operator, ())
    assert (news.what, news.is_bad) == ("key_retired", False)
    assert harness.market.receipt_key.account in news.message


def test_finding4_an_unsettled_receipt_of_a_retired_key_is_flagged(harness: SettlementHarness) -> None:
    signed = harness.serve()
    assert reported(harness, signed) == []
    retire(harness)
    assert reported(harness, signed) == ["key_retired", "unproven"]
    assert reported(harness, signed, signed_again(harness, signed)) == ["key_retired"]


@pytest.mark.parametrize("is_only", [True, False])
def test_the_watcher_warns_of_an_operator_without_a_batch(harness: SettlementHarness, is_only: bool) -> None:
    """Its receipts are unsettled, so that its holders still need another signature."""
    operator, signed = harness.market.operator, harness.serve()
    retire(harness)
    watcher = Watcher(
        follow=lambda: None,
        db=harness.db,
        chain=harness.chain,
        cases=cases(harness),
        judge=judge,
        only=operator if is_only else None,
        evidence=lambda: () if is_only else (signed,),
    )
    found = [(one.what, one.operator) for one in watcher.run_once()]
    assert found == [("key_retired", operator), *([] if is_only else [("unproven", operator)])]
    watcher.only = some_account("another")
    assert list(watcher.run_once()) == []


def test_a_settled_receipt_of_a_retired_key_is_not_flagged(harness: SettlementHarness) -> None:
    signed = harness.serve()
    settle(harness)
    retire(harness)
    assert reported(harness, signed) == ["key_retired"]


def test_a_receipt_that_no_key_of_the_operator_signed_is_not_flagged(harness: SettlementHarness) -> None:
    signed = harness.serve()
    forged = Key("thief").sign(harness.market.domain.receipt_digest(signed.receipt))
    retire(harness)
    assert reported(harness, replace(signed, signature=forged)) == ["key_retired"]


def test_finding4_a_batch_that_disowns_a_receipt_of_a_retired_key_is_reported(
    harness: SettlementHarness,
) -> None:
    signed = harness.serve()
    other = replace(signed.receipt, response_hash=some_hash("another answer"))
    digest = harness.market.domain.receipt_digest(other)
    disowned_one = replace(signed, receipt=other, signature=harness.market.receipt_key.sign(digest))
    retire(harness)
    for _ in range(2):
        harness.settler(receipt_key=lambda _: NEXT).run_once(is_forced=True)
        harness.mine()
    (news,) = found_disowned(harness, [disowned_one])
    assert (news.what, news.number, news.is_bad) == ("disowned", 1, True)
    assert found_disowned(harness, [signed]) == found_disowned(harness, []) == []
