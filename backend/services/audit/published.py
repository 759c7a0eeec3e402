"""Reads and checks a batch's public data, which is untrusted like the store that holds it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.batch import Span
from backend.domain.batch_data import FILE_NAME, MAX_LINE, BatchName, MalformedBatch, decode_chunks
from backend.domain.content import ContentCorrupt, ContentMissing, ContentUnsafe, cid_of
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.judging.case import Finding
from backend.domain.streams import at_most

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.domain.batch import Header
    from backend.domain.hashing import TypedDomain
    from backend.domain.ids import Account, Hash32
    from backend.domain.judging.case import IsSigned
    from backend.domain.receipt import SignedReceipt
    from backend.ports.chain_view import ChainView
    from backend.ports.keys import Recover
    from backend.ports.storage import BlobStore

MAX_DATA_BYTES = 512 << 20
"""As much as 30,000 receipts with the longest lists take."""
MEMORY_FACTOR = 4
"""Judging a batch takes less memory than this many times its data; `benchmarks.judging` measures it.

This assumes few accounts: each one that the batch credits, a contributor or creator that is registered on the
chain, takes some 800 bytes more.
"""
TOO_LARGE = "too_large"
"""What a finding says of a batch that this process cannot judge in its memory, or whose parent it cannot."""
RECEIPT_BYTES, SLICE_BYTES, SHARE_BYTES = 2400, 450, 48
"""Memory that a receipt, each slice and each share take at most in a batch with its trees, if it credits few
accounts.
"""
BatchReceipts = tuple["tuple[SignedReceipt, ...] | None", "Finding | None"]
"""The receipts, or the finding that explains why there are none."""


class BatchTooLarge(Unavailable):
    """A batch that this process cannot judge in its memory, and another one may find right or wrong."""


def read_batch_data(
    header: Header, blobs: BlobStore, settlement: TypedDomain, max_judged: int = MAX_DATA_BYTES
) -> BatchReceipts:
    """`settlement`: EIP-712 domain of the batch's contract. `max_judged`: bytes of data that this process can
    judge. Errors: `BatchTooLarge`; `Unavailable`.
    """
    cid = cid_of(header.data_digest)
    try:
        # Limits memory: the data is published by other operators.
        size = blobs.names(cid).get(FILE_NAME, 0)
        if size > max_bytes(header):
            return None, Finding("data_malformed", "the batch data is larger than its receipts can be")
        if size > max_judged:
            raise _too_large(header, size, max_judged)
        too_long = ContentUnsafe("the batch data is larger than its folder states")
        name, receipts = decode_chunks(at_most(size, blobs.open(cid, FILE_NAME), too_long))
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


def _too_large(header: Header, size: int, max_judged: int) -> BatchTooLarge:
    needed, given = (MEMORY_FACTOR * num_bytes / 1e9 for num_bytes in (size, max_judged))
    return BatchTooLarge(
        f"batch {header.number} of {header.operator} is too large to be judged here: its {size / 1e6:.0f} MB "
        f"of data take up to {needed:.1f} GB of memory, and an audit may use {given:.1f} GB, half of what "
        "the machine or container has: audit it with more"
    )


def memory_of(receipts: Sequence[SignedReceipt]) -> int:
    """Bytes of memory that a batch of these receipts takes at most with its trees."""
    slices = (SLICE_BYTES + SHARE_BYTES * len(part.shares) for one in receipts for part in one.slices)
    return sum(slices, RECEIPT_BYTES * len(receipts))


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
