"""Input and results of `judge`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from backend.domain import rules
from backend.domain.disputes.witnesses import MAX_KEYS, AnsweredReceipt, Lookup, Tree
from backend.domain.receipt import SignedReceipt

if TYPE_CHECKING:
    from backend.domain.batch import Batch, Header, OperatorLedger, Span
    from backend.domain.disputes.proofs import Proof
    from backend.domain.ids import Account, DatanetId, SnapshotId, VersionId
    from backend.domain.registries import Contribution, Snapshot

Answers = Mapping[tuple[Tree, int], Lookup | AnsweredReceipt]
"""Answers to demands by tree and key: the index of a receipt, the key of an entry, an account."""

IsSigned = Callable[[SignedReceipt], bool]
"""Whether a receipt key of the batch's operator signed the receipt."""


class Registry(rules.Registry, Protocol):
    """Versions and contributions on the chain. `ChainView` implements it."""

    def registered_at(self, version: VersionId) -> int | None:
        """Unix seconds of the registration; None if it is not registered."""
        ...

    def snapshot(self, snapshot: SnapshotId) -> Snapshot | None: ...

    def contribution(self, datanet: DatanetId, index: int) -> Contribution | None: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """The first error of a batch, or the reason why it cannot be judged yet."""

    what: str
    """Machine-readable: `data_missing`, `data_malformed`, `signature`, or the wrong field."""
    message: str
    receipt: int | None = None
    """Index of the wrong receipt in the batch."""
    unit: int | None = None
    """First micro-unit of the wrong receipt in the batch's total, if one receipt is at fault."""


@dataclass(frozen=True, slots=True)
class Case:
    """Everything known about one committed batch."""

    header: Header
    parent: Header | None
    """None for the operator's first batch."""
    spans: tuple[Span, ...]
    """Intervals that the commit collected: the preimage of the header's `spans_hash`."""
    receipts: tuple[SignedReceipt, ...] | None
    """Published receipts; None if no published data can be this batch's (`withheld` gives the reason)."""
    ledger: OperatorLedger | None
    """The ledger after the parent, empty for the first batch; None if the parent's data was withheld."""
    answers: Answers = field(default_factory=dict)
    withheld: Finding | None = None
    evidence: tuple[SignedReceipt, ...] = ()
    """Receipts from other sources, such as a consumer's own, with unverified signatures."""
    claimed: Mapping[Account, int] = field(default_factory=dict)
    """Micro-units that each account claimed from the operator so far. Empty for a final batch, which later
    claims may exceed.
    """


@dataclass(frozen=True, slots=True)
class Right:
    """Every micro-unit of the batch is accounted for correctly."""

    batch: Batch


@dataclass(frozen=True, slots=True)
class Wrong:
    """The fraud proof convicts the batch."""

    finding: Finding
    proof: Proof


@dataclass(frozen=True, slots=True)
class Undecided:
    """The judgement depends on leaves that only the batch's operator knows.

    `demands` have up to 64 keys each, the most informative first, and are meant to be sent together. It is
    also possible to send only some: each answer reduces the demands of the next judgement. There are none if
    our view of the chain is incomplete or no demand can yield more.
    """

    finding: Finding
    demands: tuple[tuple[Tree, tuple[int, ...]], ...]


Judgement = Right | Wrong | Undecided


def in_demands(tree: Tree, keys: Sequence[int]) -> tuple[tuple[Tree, tuple[int, ...]], ...]:
    """Group keys into demands."""
    return tuple((tree, tuple(keys[at : at + MAX_KEYS])) for at in range(0, len(keys), MAX_KEYS))
