"""Reads and checks a batch's public data, which is untrusted like the store that holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.batch import Span
from backend.domain.batch_data import FILE_NAME, MAX_LINE, BatchName, MalformedBatch, decode_chunks
from backend.domain.content import ContentCorrupt, ContentMissing, ContentUnsafe, cid_of
from backend.domain.errors import InvalidInput
from backend.domain.judging.case import Finding

if TYPE_CHECKING:
    from backend.domain.batch import Header
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, Hash32
    from backend.domain.judging.case import IsSigned
    from backend.domain.receipt import SignedReceipt
    from backend.ports.chain import ChainView, Recover
    from backend.ports.storage import BlobStore

MAX_DATA_BYTES = 512 << 20
"""As much as 25,000 receipts with the longest lists take."""
BatchReceipts = tuple["tuple[SignedReceipt, ...] | None", "Finding | None"]
"""The receipts, or the finding that explains why there are none."""


def read_batch_data(header: Header, blobs: BlobStore, settlement: TypedDomain) -> BatchReceipts:
    """`settlement`: EIP-712 domain of the batch's contract. Errors: `Unavailable`."""
    cid = cid_of(header.data_digest)
    try:
        # Limits memory: the data is published by other operators.
        if blobs.names(cid).get(FILE_NAME, 0) > max_bytes(header):
            return None, Finding("data_malformed", "the batch data is larger than its receipts can be")
        name, receipts = decode_chunks(blobs.open(cid, FILE_NAME))
    except (ContentMissing, ContentCorrupt) as error:
        return None, Finding("data_missing", f"the batch data {cid}: {error}")
    except (MalformedBatch, ContentUnsafe) as error:
        return None, Finding("data_malformed", str(error))
    expected = BatchName(settlement.chain_id, settlement.contract, header.operator, header.number)
    if name != expected:
        return None, Finding("data_name", f"the batch data names {name}, it must name {expected}")
    if not receipts:
        return None, Finding("data_malformed", "the batch data has no receipt")
    return receipts, None


def max_bytes(header: Header) -> int:
    """Maximum size of the batch's data, whose header may state four billion receipts."""
    return min(MAX_LINE * (header.receipts_count + 1), MAX_DATA_BYTES)


def spans_of(view: ChainView, batch_hash: Hash32) -> tuple[Span, ...]:
    """Spans that a batch collected, from the chain."""
    return tuple(Span(s.channel_id, s.before, s.start, s.until) for s in view.spans(batch_hash))


def signed_by_keys_of(
    operator: Account, view: ChainView, recover: Recover, settlement: TypedDomain, committed_at: int
) -> IsSigned:
    """Predicate: whether a receipt is signed by a receipt key of the operator that counts for a batch
    committed at `committed_at` (unix seconds).
    """
    known = view.operator(operator)

    def is_signed(signed: SignedReceipt) -> bool:
        try:
            signer = recover(settlement.receipt_digest(signed.receipt), signed.signature)
        except InvalidInput:
            return False
        return known is not None and known.is_receipt_key(signer, committed_at)

    return is_signed
