"""What is known of a committed batch: from the chain, the store of batch data, and the answers to demands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backend.domain.batch import Header
from backend.domain.content import cid_of
from backend.domain.disputes.witnesses import AnsweredReceipt, Lookup
from backend.domain.judging.case import Case
from backend.ports.storage import bring_nothing
from backend.services.audit.published import max_bytes, published, signed_by_keys_of, spans_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.domain.batch import OperatorLedger
    from backend.domain.disputes.witnesses import Tree
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, Hash32
    from backend.domain.judging.case import IsSigned
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import CommittedBatch, DemandAnswer
    from backend.ports.chain import Chain, ChainView, Recover
    from backend.ports.storage import BlobStore, Bring
    from backend.services.audit.published import Published

RETRY_SECONDS = 2.0


class Cases:
    """`chain` decodes what answers show; `settlement` is the domain in which receipts are signed.

    The receipts of the `kept` batches last asked for stay in memory. `bring`: has batch data brought into the
    store that is not there.
    """

    def __init__(
        self,
        chain: Chain,
        blobs: BlobStore,
        recover: Recover,
        settlement: TypedDomain,
        kept: int = 1,
        bring: Bring = bring_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain, self._blobs, self._clock = chain, blobs, clock
        self._recover, self._settlement, self._kept = recover, settlement, kept
        self._bring = bring
        self._published: dict[Hash32, tuple[float, Published]] = {}
        self._shown: dict[tuple[Hash32, int, int], Lookup | AnsweredReceipt] = {}

    def case(
        self,
        view: ChainView,
        batch: CommittedBatch,
        parent: CommittedBatch | None,
        ledger: OperatorLedger | None,
        evidence: Sequence[SignedReceipt] = (),
    ) -> Case:
        """`ledger`: after `parent`, None where it is not known. Errors: `Unavailable`."""
        header = Header.from_chain(batch.header)
        receipts, withheld = self._find(header)
        return Case(
            header=header,
            parent=None if parent is None else Header.from_chain(parent.header),
            spans=spans_of(view, batch.hash),
            receipts=receipts,
            ledger=ledger,
            answers=self._answers(view, batch.hash),
            withheld=withheld,
            evidence=tuple(evidence),
        )

    def is_signed(self, view: ChainView, operator: Account) -> IsSigned:
        return signed_by_keys_of(operator, view, self._recover, self._settlement)

    def _find(self, header: Header) -> Published:
        """As `published`, which is not asked again at once: a store may look long for what nobody has."""
        until, found = self._published.get(header.hash, (0.0, None))
        if found is None or (found[0] is None and until < self._clock()):
            self._bring(cid_of(header.data_digest), max_bytes(header), header.operator)
            found = published(header, self._blobs, self._settlement)
            while len(self._published) >= self._kept:
                del self._published[next(iter(self._published))]
            self._published[header.hash] = (self._clock() + RETRY_SECONDS, found)
        return found

    def _answers(
        self, view: ChainView, batch_hash: Hash32
    ) -> dict[tuple[Tree, int], Lookup | AnsweredReceipt]:
        found: dict[tuple[Tree, int], Lookup | AnsweredReceipt] = {}
        for demanded in view.demands(batch_hash):
            for answered in view.answers(demanded.id):
                key = demanded.demand.keys[answered.key_index]
                found[demanded.demand.tree, key] = self._shown_by(answered)
        return found

    def _shown_by(self, answered: DemandAnswer) -> Lookup | AnsweredReceipt:
        place = (answered.demand, answered.key_index, answered.block_number)
        if place not in self._shown:
            args = self._chain.decode(self._chain.address("Disputes"), answered.call)["args"]
            is_receipt = "witness" in args
            self._shown[place] = (
                AnsweredReceipt.from_chain(args) if is_receipt else Lookup.from_chain(args["lookup"])
            )
        return self._shown[place]
