"""Collects all public data about a committed batch: chain, batch data, and answers to demands."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from backend.domain.batch import Header
from backend.domain.content import cid_of
from backend.domain.disputes.witnesses import AnsweredReceipt, Lookup
from backend.domain.judging.case import Case
from backend.domain.settlement import BatchState
from backend.ports.storage import fetch_nothing
from backend.services.audit.published import max_bytes, read_batch_data, signed_by_keys_of, spans_of

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
    from backend.ports.storage import BlobStore, FetchFolder
    from backend.services.audit.published import BatchReceipts

RETRY_SECONDS = 2.0
MAX_DECODED = 4096
"""Answers to demands that are kept decoded."""


class Cases:
    """`chain` decodes the calls that answer demands; `settlement` is the EIP-712 domain of receipts.

    The receipts of the latest `cache_size` batches stay in memory. `fetch_folder` fetches batch data that the
    store lacks.
    """

    def __init__(
        self,
        chain: Chain,
        blobs: BlobStore,
        recover: Recover,
        settlement: TypedDomain,
        cache_size: int = 1,
        fetch_folder: FetchFolder = fetch_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain, self._blobs, self._clock = chain, blobs, clock
        self._recover, self._settlement, self._cache_size = recover, settlement, cache_size
        self._fetch_folder = fetch_folder
        self._lock = threading.Lock()
        self._cache: dict[Hash32, tuple[float, BatchReceipts]] = {}
        self._decoded: dict[tuple[Hash32, int], Lookup | AnsweredReceipt] = {}

    def case(
        self,
        view: ChainView,
        batch: CommittedBatch,
        parent: CommittedBatch | None,
        ledger: OperatorLedger | None,
        data: BatchReceipts,
        evidence: Sequence[SignedReceipt] = (),
    ) -> Case:
        """`ledger`: the one after `parent`, None if it is unknown. `data`: what `receipts` returned."""
        header = Header.from_chain(batch.header)
        receipts, withheld = data
        return Case(
            header=header,
            parent=None if parent is None else Header.from_chain(parent.header),
            spans=spans_of(view, batch.hash),
            receipts=receipts,
            ledger=ledger,
            answers=self._answers(view, batch.hash),
            withheld=withheld,
            evidence=tuple(evidence),
            claimed={} if batch.state is BatchState.FINAL else view.claimed(header.operator),
        )

    def is_signed(self, view: ChainView, operator: Account, committed_at: int) -> IsSigned:
        """Predicate: whether a key that counts for a batch committed at that time signed a receipt."""
        return signed_by_keys_of(operator, view, self._recover, self._settlement, committed_at)

    def receipts(self, header: Header) -> BatchReceipts:
        """The published receipts of a batch, cached. To fetch them may take minutes. After a failure they are
        not read again for `RETRY_SECONDS`: a store may search long for missing content.

        Errors: `Unavailable` if the store of batch data cannot be reached.
        """
        until, found = self._cache.get(header.hash, (0.0, None))
        if found is None or (found[0] is None and until < self._clock()):
            self._fetch_folder(cid_of(header.data_digest), max_bytes(header), header.operator)
            found = read_batch_data(header, self._blobs, self._settlement)
            with self._lock:
                while len(self._cache) >= self._cache_size:
                    del self._cache[next(iter(self._cache))]
                self._cache[header.hash] = (self._clock() + RETRY_SECONDS, found)
        return found

    def is_stored(self, header: Header) -> bool:
        """Whether the store has the batch's data, so that none is fetched."""
        return self._blobs.has(cid_of(header.data_digest))

    def _answers(
        self, view: ChainView, batch_hash: Hash32
    ) -> dict[tuple[Tree, int], Lookup | AnsweredReceipt]:
        demanded = {one.leaf_id: (one.tree, one.key) for one in view.demands(batch_hash)}
        return {demanded[one.leaf_id]: self._decode(one) for one in view.answers(batch_hash)}

    def _decode(self, answered: DemandAnswer) -> Lookup | AnsweredReceipt:
        place = (answered.leaf_id, answered.block_number)
        if (known := self._decoded.get(place)) is not None:
            return known
        args = self._chain.decode(self._chain.address("Disputes"), answered.call)["args"]
        is_receipt = "witness" in args
        decoded = AnsweredReceipt.from_chain(args) if is_receipt else Lookup.from_chain(args["lookup"])
        with self._lock:
            while len(self._decoded) >= MAX_DECODED:
                del self._decoded[next(iter(self._decoded))]
            self._decoded[place] = decoded
        return decoded
