"""Cases of `tests/vectors/disputes.json`: leaf ids, lookups and encoded proofs. See `make_vectors`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.chain.contracts import interface
from backend.domain.batch import Header, Span
from backend.domain.disputes.lookups import TreeRoot, leaf_hash, look_up
from backend.domain.disputes.proofs import (
    BadPositionProof,
    BadReceiptProof,
    BelowClaimedProof,
    EquivocationProof,
    Proof,
    WrongBalanceProof,
    WrongEntryProof,
    WrongOrderProof,
    ZeroLeafProof,
)
from backend.domain.disputes.witnesses import (
    BalanceWitness,
    EntryPlace,
    Lookup,
    ReceiptWitness,
    SnapshotWitness,
    Tree,
    key_word,
    leaf_id,
)
from backend.domain.hashing import accepted_words, receipt_id, version_id, word
from backend.domain.ids import ZERO_HASH, DatanetId
from backend.domain.merkle import ENTRIES_TAG, RECEIPTS_TAG, SumTree
from backend.domain.money import PPM
from backend.domain.receipt import SignedReceipt, Slice
from tools.cases import case
from tools.labels import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.receipt import Receipt, Share, VersionRecord
    from tools.cases import Case

KEYS = [3, 5, 8, 13, 21, (1 << 256) - 1]
"""Keys of a tree's leaves. The value of leaf `i` is `i + 1`."""


def demands() -> Iterator[Case]:
    batch_hash = some_hash("batch")
    for tree, key in zip(Tree, (0, 1 << 255, 1, (1 << 160) - 1), strict=True):
        yield case(
            batch_hash=batch_hash,
            tree=int(tree),
            key=key_word(key),
            leaf_id=leaf_id(batch_hash, tree, key),
        )


def lookups() -> Iterator[Case]:
    """Lookups of a leaf, of keys before the first and after the last leaf, and of keys in each gap."""
    tree, root = _tree(ENTRIES_TAG, KEYS)
    for key in (3, 21, (1 << 256) - 1, 0, 4, 20, 1 << 255):
        lookup = look_up(tree, KEYS, key)
        value, prefix = root.find(key, lookup)
        yield case(
            tag=root.tag,
            root=root.root,
            count=root.count,
            sum=root.total,
            key=key_word(key),
            keys=list(map(key_word, lookup.keys)),
            indices=[o.index for o in lookup.openings],
            values=[o.value for o in lookup.openings],
            paths=[o.path for o in lookup.openings],
            value=value,
            prefix=prefix,
        )


def calls(receipt: Receipt, record: VersionRecord, shares: tuple[Share, ...]) -> Iterator[Case]:
    """Each kind of proof once. The proofs are not valid; the cases check their encoding."""
    for proof in _proofs(receipt, record, shares):
        yield _call(proof.function, proof.header, proof.args, receipt)
    header = _header()
    args = (header.abi, int(Tree.ENTRIES), key_word(1 << 255))
    yield _call("voidUnanswered", header, args, receipt)


def _call(function: str, header: Header, args: tuple[Any, ...], receipt: Receipt) -> Case:
    return case(
        function=function,
        data=interface("Disputes").function(function, args).encode(args),
        batch_hash=header.hash,
        receipt_id=receipt_id(receipt),
    )


def _proofs(receipt: Receipt, record: VersionRecord, shares: tuple[Share, ...]) -> Iterator[Proof]:
    header = _header()
    tree, _ = _tree(RECEIPTS_TAG, [int(receipt_id(receipt), 16), 1, 2])
    signed = SignedReceipt(receipt, "hidden-cosine-1", (Slice(version_id(record), PPM, shares),), "0x")
    witness = ReceiptWitness.of(signed, tree.open(0), [record])
    snapshot = SnapshotWitness(DatanetId(7), 300, accepted_words([i % 3 == 0 for i in range(300)]))
    entries, _ = _tree(ENTRIES_TAG, KEYS)
    one, two = (look_up(entries, KEYS, key) for key in (5, 9))
    span = Span(receipt.channel_id, 1, 2, 3)
    content = some_hash("content")
    yield BadReceiptProof(header, witness)
    yield BadReceiptProof(header, witness, (span, span))
    yield BadPositionProof(header, witness, 0, 2, snapshot)
    yield WrongEntryProof(header, witness, EntryPlace(0, 3, snapshot, content), two)
    yield WrongBalanceProof(header, BalanceWitness(some_account("earner"), header, one, two, two, one))
    yield BelowClaimedProof(header, some_account("earner"), one)
    yield WrongOrderProof(header, Tree.BALANCES, Lookup((5, 3), (entries.open(1), entries.open(0))))
    yield ZeroLeafProof(header, Tree.ENTRIES, leaf_hash(ENTRIES_TAG, 5), entries.open(1))
    yield EquivocationProof(header, receipt, tree.open(0), receipt, "0x" + "11" * 65)


def _header() -> Header:
    return Header(
        operator=some_account("operator"),
        number=1,
        parent=ZERO_HASH,
        parameter_set=0,
        committed_at=1_790_000_000,
        final_at=1_790_000_120,
        final_block=9,
        total=6,
        cumulative_total=6,
        slash_up_to=2_000_000,
        spans_hash=some_hash("spans"),
        receipts_root=some_hash("receipts"),
        receipts_count=3,
        entries_root=some_hash("entries"),
        entries_count=len(KEYS),
        balances_root=some_hash("balances"),
        balances_count=2,
        data_digest=some_hash("data"),
    )


def _tree(tag: bytes, keys: list[int]) -> tuple[SumTree, TreeRoot]:
    tree = SumTree(tag, ((word(key), place + 1) for place, key in enumerate(keys)))
    return tree, TreeRoot(tag, tree.root, tree.count, tree.total)
