"""A batch before the judge: what is known of it, and what can be said of it. See `judge`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from backend.domain import rules
from backend.domain.disputes.witnesses import MAX_KEYS, AnsweredReceipt, Lookup, Tree
from backend.domain.receipt import SignedReceipt

if TYPE_CHECKING:
    from backend.domain.batch import Batch, Header, Ledger, Span
    from backend.domain.disputes.proofs import Proof
    from backend.domain.ids import DatanetId, SnapshotId, VersionId
    from backend.domain.registries import Contribution, Snapshot

Answers = Mapping[tuple[Tree, int], Lookup | AnsweredReceipt]
"""By tree and key: a receipt's index, an entry's key, an account."""

IsSigned = Callable[[SignedReceipt], bool]
"""Whether a receipt key of the batch's operator signed it."""


class Registry(rules.Registry, Protocol):
    """What the chain knows of versions and contributions; `ChainView` is one."""

    def registered_at(self, version: VersionId) -> int | None:
        """Unix seconds; None if it is not registered."""
        ...

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None: ...

    def contribution(self, datanet: DatanetId, index: int) -> Contribution | None: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """The first thing that is wrong with a batch, or why it cannot be judged yet."""

    what: str
    """Machine-readable: `data_missing`, `data_malformed`, `signature`, or the field that is wrong."""
    message: str
    receipt: int | None = None
    """Index of the wrong receipt, in the order of the batch."""
    unit: int | None = None
    """The first wrong micro-unit on the batch's line [0, total), where one receipt is to blame."""


@dataclass(frozen=True, slots=True)
class Case:
    """All that is known of one committed batch."""

    header: Header
    parent: Header | None
    """None for the operator's first batch."""
    spans: tuple[Span, ...]
    """What the commit collected; they hash to the header's `spans_hash`."""
    receipts: tuple[SignedReceipt, ...] | None
    """The published ones; None if there are none that could be this batch's, then `withheld` says why."""
    ledger: Ledger | None
    """After the parent, `Ledger()` before the first batch; None if the parent's data was withheld."""
    answers: Answers = field(default_factory=dict)
    withheld: Finding | None = None
    evidence: tuple[SignedReceipt, ...] = ()
    """Receipts from elsewhere, such as a consumer's own, whoever signed them."""


@dataclass(frozen=True, slots=True)
class Right:
    """Every unit is right."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Wrong:
    """The batch falls by this proof."""

    finding: Finding
    proof: Proof


@dataclass(frozen=True, slots=True)
class Needs:
    """Whether or by what the batch falls depends on leaves that only its operator knows.

    `demands`: each of up to 64 keys, all meant to be sent at once, the most telling first. Any part of them
    may be sent: what is answered makes the next judgement's demands fewer. None where our own view of the
    chain does not suffice, or nothing can be forced out.
    """

    finding: Finding
    demands: tuple[tuple[Tree, tuple[int, ...]], ...]


Judgement = Right | Wrong | Needs


def in_demands(tree: Tree, keys: Sequence[int]) -> tuple[tuple[Tree, tuple[int, ...]], ...]:
    """The keys in groups that one demand can hold."""
    return tuple((tree, tuple(keys[at : at + MAX_KEYS])) for at in range(0, len(keys), MAX_KEYS))
