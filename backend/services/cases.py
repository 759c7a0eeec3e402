"""What is known of a committed batch: from the chain, the store of batch data, and the answers to demands."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from backend.domain.batch import Header, Span
from backend.domain.batch_data import FILE_NAME, MAX_LINE, BatchName, MalformedBatch, decode
from backend.domain.content import ContentCorrupt, ContentMissing, cid_of
from backend.domain.disputes import AnsweredReceipt, Lookup
from backend.domain.errors import InvalidInput
from backend.domain.judge import Case, Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.domain.batch import Ledger
    from backend.domain.chain import Answered, CommittedBatch
    from backend.domain.disputes import Tree
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, Hash32
    from backend.domain.judge import IsSigned
    from backend.domain.receipt import SignedReceipt
    from backend.ports.chain import Chain, ChainView, Recover
    from backend.ports.storage import BlobStore

Published = tuple["tuple[SignedReceipt, ...] | None", "Finding | None"]
"""The receipts, or why there are none."""
KEPT_BATCHES = 8
RETRY_SECONDS = 2.0


class Cases:
    """`chain` decodes what answers show; `settlement` is the domain in which receipts are signed."""

    def __init__(
        self,
        chain: Chain,
        blobs: BlobStore,
        recover: Recover,
        settlement: TypedDomain,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chain, self._blobs, self._clock = chain, blobs, clock
        self._recover, self._settlement = recover, settlement
        self._published: dict[Hash32, tuple[float, Published]] = {}
        self._shown: dict[tuple[Hash32, int, int], Lookup | AnsweredReceipt] = {}

    def case(
        self, view: ChainView, batch: CommittedBatch, parent: CommittedBatch | None, ledger: Ledger | None
    ) -> Case:
        """`ledger`: after `parent`, None where it is not known. Errors: `Unavailable`."""
        header = Header.from_chain(batch.header)
        receipts, withheld = self._find(header)
        return Case(
            header=header,
            parent=None if parent is None else Header.from_chain(parent.header),
            spans=tuple(Span(s.channel_id, s.before, s.start, s.until) for s in view.spans(batch.hash)),
            receipts=receipts,
            ledger=ledger,
            answers=self._answers(view, batch.hash),
            withheld=withheld,
        )

    def is_signed(self, view: ChainView, operator: Account) -> IsSigned:
        known = view.operator(operator)
        keys = () if known is None else known.keys

        def is_signed(signed: SignedReceipt) -> bool:
            try:
                return (
                    self._recover(self._settlement.receipt_digest(signed.receipt), signed.signature) in keys
                )
            except InvalidInput:
                return False

        return is_signed

    def _find(self, header: Header) -> Published:
        """As `_read`, which is not asked again at once: a store may look long for what nobody has."""
        until, found = self._published.get(header.hash, (0.0, None))
        if found is None or (found[0] is None and until < self._clock()):
            found = self._read(header)
            while len(self._published) >= KEPT_BATCHES:
                del self._published[next(iter(self._published))]
            self._published[header.hash] = (self._clock() + RETRY_SECONDS, found)
        return found

    def _read(self, header: Header) -> Published:
        """The receipts of the batch's data, or why there are none."""
        cid = cid_of(header.data_digest)
        try:
            # What somebody else published must not fill our memory.
            if self._blobs.names(cid).get(FILE_NAME, 0) > MAX_LINE * (header.receipts_count + 1):
                return None, Finding("data_malformed", "the batch data is longer than its receipts can be")
            name, receipts = decode(self._blobs.read(cid, FILE_NAME))
        except (ContentMissing, ContentCorrupt) as error:
            return None, Finding("data_missing", f"the batch data {cid}: {error}")
        except MalformedBatch as error:
            return None, Finding("data_malformed", str(error))
        here = BatchName(self._settlement.chain_id, self._settlement.contract, header.operator, header.number)
        if name != here:
            return None, Finding("data_name", f"the batch data is of {name}, it must be of {here}")
        return receipts, None

    def _answers(
        self, view: ChainView, batch_hash: Hash32
    ) -> dict[tuple[Tree, int], Lookup | AnsweredReceipt]:
        found: dict[tuple[Tree, int], Lookup | AnsweredReceipt] = {}
        for demanded in view.demands(batch_hash):
            for answered in view.answers(demanded.id):
                key = demanded.demand.keys[answered.key_index]
                found[demanded.demand.tree, key] = self._shown_by(answered)
        return found

    def _shown_by(self, answered: Answered) -> Lookup | AnsweredReceipt:
        place = (answered.demand, answered.key_index, answered.block_number)
        if place not in self._shown:
            args = self._chain.decode(self._chain.address("Disputes"), answered.call)["args"]
            is_receipt = "witness" in args
            self._shown[place] = (
                AnsweredReceipt.from_chain(args) if is_receipt else Lookup.from_chain(args["lookup"])
            )
        return self._shown[place]
