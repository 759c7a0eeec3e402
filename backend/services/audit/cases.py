"""Collects all public data about a committed batch: chain, batch data, and answers to demands."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

from backend.domain.batch import Header
from backend.domain.batch_data import FILE_NAME
from backend.domain.content import ContentCorrupt, ContentMissing, ContentUnsafe, cid_of
from backend.domain.disputes.witnesses import AnsweredReceipt, Lookup
from backend.domain.errors import Unavailable
from backend.domain.judging.case import Case
from backend.domain.settlement import BatchState
from backend.ports.storage import fetch_nothing
from backend.services.audit.published import (
    MAX_DATA_BYTES,
    max_bytes,
    memory_of,
    read_batch_data,
    signed_by_keys_of,
    spans_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from backend.domain.batch import OperatorLedger
    from backend.domain.disputes.witnesses import Tree
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, Hash32
    from backend.domain.judging.case import IsSigned
    from backend.domain.receipt import SignedReceipt
    from backend.domain.settlement import CommittedBatch, DemandAnswer
    from backend.ports.chain import Chain
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Recover
    from backend.ports.storage import BlobStore, FetchFolder
    from backend.services.audit.published import BatchReceipts

RETRY_SECONDS = 2.0
MAX_CACHED_BYTES = 64 << 20
"""Memory of a batch that may be kept."""
SMALL_DATA_BYTES = 16 << 20
"""Data of batches that several threads may have in memory at once."""
WAIT_SECONDS = 10.0
"""Longest wait for another thread's large batch, while a request may wait."""
MAX_DECODED = 4096
"""Answers to demands that are kept decoded."""

_large = threading.RLock()
"""Held while a large batch is in memory; one for the process, as the memory is."""


class AnotherLargeBatch(Unavailable):
    """Another large batch has been read for longer than a request waits. The request can be retried."""


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    if not _large.acquire(timeout=WAIT_SECONDS):
        raise AnotherLargeBatch("another large batch is being read; try again")
    try:
        yield
    finally:
        _large.release()


class Cases:
    """`chain` decodes the calls that answer demands; `settlement` is the EIP-712 domain of receipts.

    `max_judged` is the size of batch data that this process can judge. `fetch_folder` fetches batch data that
    the store lacks.
    """

    def __init__(
        self,
        chain: Chain,
        blobs: BlobStore,
        recover: Recover,
        settlement: TypedDomain,
        max_judged: int = MAX_DATA_BYTES,
        fetch_folder: FetchFolder = fetch_nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain, self._blobs, self._clock = chain, blobs, clock
        self._recover, self._settlement, self._max_judged = recover, settlement, max_judged
        self._fetch_folder = fetch_folder
        self._lock = threading.Lock()
        self._latest: tuple[Hash32, float, BatchReceipts] | None = None
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
        """The published receipts of a batch; those of the latest are cached, unless they are many. To fetch
        them may take minutes. After a failure they are not read again for `RETRY_SECONDS`: a store may search
        long for missing content.

        Errors: `BatchTooLarge`; `Unavailable` if the store of batch data cannot be reached.
        """
        latest = self._latest
        if latest is not None and latest[0] == header.hash:
            _, until, found = latest
            if found[0] is not None or until >= self._clock():
                return found
        self._latest = latest = None  # before the next one is in memory
        self.fetch(header)
        found = read_batch_data(header, self._blobs, self._settlement, self._max_judged)
        if found[0] is None or memory_of(found[0]) <= MAX_CACHED_BYTES:
            self._latest = header.hash, self._clock() + RETRY_SECONDS, found
        return found

    @contextmanager
    def reading(self, header: Header) -> Iterator[BatchReceipts]:
        """`receipts`, for as long as they are used: of several threads, one at a time uses a large batch.

        Errors: as `receipts`; `AnotherLargeBatch`.
        """
        self.fetch(header)
        with _one_at_a_time() if self._size(header) > SMALL_DATA_BYTES else nullcontext():
            yield self.receipts(header)

    def fetch(self, header: Header) -> None:
        """Fetch the batch's data if the store lacks them, which may take minutes."""
        self._fetch_folder(cid_of(header.data_digest), max_bytes(header), header.operator)

    def _size(self, header: Header) -> int:
        try:
            return self._blobs.names(cid_of(header.data_digest)).get(FILE_NAME, 0)
        except (ContentMissing, ContentCorrupt, ContentUnsafe):
            return 0  # nothing is read

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
