"""Whether a committed batch is right, by which proof it falls, or what must be demanded to know.

    Case -> judge -> Right | Wrong | Needs;  what is answered to the demands goes into the next Case

Pure, and the same for everybody who knows the same. What the contract itself computed of a header (number,
parent, instants, totals, spans) is never in question; see docs/protocol.md, "Disputes".
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.batch import spans_hash
from backend.domain.disputes.witnesses import Tree
from backend.domain.judging.case import Finding, Needs, Right, Wrong, in_demands
from backend.domain.judging.evidence import contradiction
from backend.domain.judging.receipts import CheckedReceipts
from backend.domain.judging.shown_receipts import ShownReceipts
from backend.domain.judging.sums import judge_sums

if TYPE_CHECKING:
    from backend.domain.judging.case import Case, IsSigned, Judgement, Registry
    from backend.domain.parameters import ParameterSet


def judge(case: Case, registry: Registry, terms: ParameterSet, is_signed: IsSigned) -> Judgement:
    """`terms`: the parameter set that the header names."""
    if spans_hash(case.spans) != case.header.spans_hash:
        return Needs(Finding("spans_hash", "what the batch collected is not known"), ())
    checked = CheckedReceipts(case, ShownReceipts(case), registry, is_signed)
    if checked.wrong is not None:
        return checked.wrong
    if checked.reason is not None and checked.unknown:
        return Needs(checked.reason, in_demands(Tree.RECEIPTS, checked.unknown))
    judged = judge_sums(case, checked.receipts, registry, terms)
    if isinstance(judged, Right) and checked.reason is None:
        return contradiction(judged.batch, case, is_signed) or judged
    if isinstance(judged, Wrong) or checked.reason is None:
        return judged
    more = judged.demands if isinstance(judged, Needs) else ()
    return Needs(checked.reason, (*in_demands(Tree.RECEIPTS, checked.unsigned), *more))
