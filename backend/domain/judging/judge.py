"""Judges a committed batch.

    Case -> judge -> Right | Wrong | Undecided;  answers to the demands go into the next Case

Pure: equal cases give equal judgements. Header fields that the contract computes (number, parent, instants,
blocks, totals, slash, spans) are trusted. Source: docs/protocol.md, "Disputes".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.batch import spans_hash
from backend.domain.disputes.witnesses import Tree
from backend.domain.judging.case import Finding, Right, Undecided, Wrong, in_demands
from backend.domain.judging.claims import below_claimed, below_claimed_in_answers, unknown_claimed
from backend.domain.judging.evidence import find_equivocation
from backend.domain.judging.known_receipts import KnownReceipts
from backend.domain.judging.receipts import CheckedReceipts
from backend.domain.judging.sums import judge_sums, partial_tree

if TYPE_CHECKING:
    from backend.domain.judging.case import Case, IsSigned, Judgement, Registry
    from backend.domain.judging.withheld_trees import PartialTree
    from backend.domain.parameters import ParameterSet


def judge(case: Case, registry: Registry, terms: ParameterSet, is_signed: IsSigned) -> Judgement:
    """`terms` is the parameter set that the header names."""
    if spans_hash(case.spans) != case.header.spans_hash:
        return Undecided(Finding("spans_hash", "the spans that the batch collected are not known"), ())
    balances = partial_tree(case, Tree.BALANCES)
    return below_claimed_in_answers(case, balances) or _judge(case, balances, registry, terms, is_signed)


def _judge(
    case: Case, balances: PartialTree, registry: Registry, terms: ParameterSet, is_signed: IsSigned
) -> Judgement:
    """`balances` is what answers opened of the batch's balances."""
    checked = CheckedReceipts(case, KnownReceipts(case), registry, is_signed)
    if checked.wrong is not None:
        return checked.wrong
    if checked.reason is not None and checked.unknown:
        # On an unknown parent, what was claimed convicts without the receipts.
        first = unknown_claimed(case, balances) if case.parent is not None and case.ledger is None else []
        demands = (*in_demands(Tree.BALANCES, first), *in_demands(Tree.RECEIPTS, checked.unknown))
        return Undecided(checked.reason, demands)
    judged = judge_sums(case, checked.receipts, registry, terms)
    if isinstance(judged, Right):
        judged = below_claimed(case.header, judged.batch.balances, case.claimed) or judged
    if isinstance(judged, Right) and checked.reason is None:
        return find_equivocation(judged.batch, case, is_signed) or judged
    if isinstance(judged, Wrong) or checked.reason is None:
        return judged
    more = judged.demands if isinstance(judged, Undecided) else ()
    return Undecided(checked.reason, (*in_demands(Tree.RECEIPTS, checked.unsigned), *more))
