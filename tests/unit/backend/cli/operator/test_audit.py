from __future__ import annotations

import json
from random import Random

import pytest

from backend.cli.operator.audit import _as_json, _as_line, audit
from backend.domain.batch import CommitTerms, OperatorLedger
from backend.domain.errors import InvalidInput
from backend.domain.judging.case import Undecided, Wrong
from backend.domain.judging.judge import judge
from backend.services.audit.auditor import Verdict
from tests.support.batch_factory import in_memory_factory
from tests.support.corruption import move_value, reprice
from tests.support.dishonest_operator import Draft, case_of

FACTORY = in_memory_factory()


def verdict_on(draft: Draft) -> Verdict:
    disputed = draft.commit(CommitTerms(1_790_000_100, 1_790_000_160))
    judged = judge(case_of(disputed, OperatorLedger()), FACTORY, FACTORY.terms, FACTORY.is_signed)
    if isinstance(judged, Wrong):
        return Verdict(disputed.header, judged.finding, judged.proof)
    if isinstance(judged, Undecided):
        return Verdict(disputed.header, judged.finding, demands=judged.demands)
    return Verdict(disputed.header, None)


def draft() -> Draft:
    return Draft.of(FACTORY.batch(Random(3), OperatorLedger(), 4))


def test_a_right_batch_is_shown_with_its_sums() -> None:
    verdict = verdict_on(draft())
    assert _as_line(verdict).startswith("batch 1: every unit is right (4 receipts, ")
    assert _as_json(verdict)["is_right"]
    assert _as_json(verdict)["proof"] is None
    assert ["attribution verify" in each for each in _as_json(verdict)["not_checked"]] == [False, True]


def test_a_wrong_receipt_is_shown_with_its_unit_and_the_proof_to_send() -> None:
    corrupted = draft()
    reprice(Random(1), corrupted, FACTORY)
    verdict = verdict_on(corrupted)
    assert verdict.finding is not None
    line = _as_line(verdict)
    assert f"WRONG, receipt {verdict.finding.receipt}: " in line
    assert f"starting at micro-unit {verdict.finding.unit:,}; voided by proveBadReceipt (" in line
    call = json.loads(json.dumps(_as_json(verdict)))["proof"]
    assert call["function"] == "proveBadReceipt"
    assert call["args"][0]["receiptsRoot"] == verdict.header.receipts_root


def test_a_withheld_tree_is_shown_with_the_demands() -> None:
    corrupted = draft()
    move_value(Random(1), corrupted.entries, 1 << 64)
    verdict = verdict_on(corrupted)
    count = sum(len(keys) for _, keys in verdict.demands)
    assert f"; demand first: {count} of its entries (" in _as_line(verdict)
    (demand, *_) = json.loads(json.dumps(_as_json(verdict)))["demands"]
    assert demand["tree"] == "entries"
    assert all(len(key) == 66 for key in demand["keys"])


@pytest.mark.parametrize("also", [{"operator": "0x" + "11" * 20}, {"batch": 1}])
def test_all_cannot_be_combined_with_another_selection(also: dict[str, object]) -> None:
    with pytest.raises(InvalidInput, match="--all"):
        audit(is_all=True, **also)
