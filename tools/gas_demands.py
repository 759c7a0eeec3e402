"""Builds demands and the most expensive answers, for the figures of `tools/gas.py`.

The worst receipt has four slices of versions with four snapshots and 256 list entries each, in a tree of 2^20
receipts. The worst look-up shows that a key has no leaf between two leaves of the parent's balances, in a
tree of 2^32 - 1 leaves. Siblings in the trees are arbitrary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.chain.keys import local_account
from backend.domain.disputes.witnesses import Lookup, ReceiptWitness, Tree
from backend.domain.hashing import (
    accepted_hash,
    ascii_word,
    keccak,
    receipt_id,
    record_argument,
    snapshot_id,
    to_bytes,
    to_hash,
    version_id,
    word,
)
from backend.domain.ids import DatanetId
from backend.domain.merkle import BALANCES_TAG, RECEIPTS_TAG, Opening, resolve
from backend.domain.money import PPM
from backend.domain.receipt import Share, SignedReceipt, Slice, VersionRecord
from tools.receipts import new_receipt

if TYPE_CHECKING:
    from backend.chain.keys import LocalSigner
    from tools.gas_market import Chain, Operator, Payer

RECEIPT_KEY = 2
"""Index of the local account that signs the operator's receipts."""
NUM_SLICES = NUM_SNAPSHOTS = 4
LIST_ITEMS = 256
IN_CALL = 50
RECEIPTS_DEPTH, BALANCES_DEPTH = 20, 32
NUM_BALANCES = 2**BALANCES_DEPTH - 1
INDEX = 0xA5A5A5A4
"""Even index of a balance whose path has a sibling on every level."""
METHOD = "hidden-cosine"
TOTAL = 10**9
"""Total of the batch in micro-units."""
SURPLUS = 10**18
"""Wei, more than any bond here."""
DATANET = DatanetId(3)
SOME = to_hash(keccak(b"some"))
LEFT_KEY, ABSENT_KEY, RIGHT_KEY = 2**160 // 3, 2**160 // 2, 2**160 // 3 * 2


def demand_gas(chain: Chain, operator: Operator, payer: Payer) -> dict[str, int]:
    """Measure a demand for one leaf without credit, one of 50 leaves, and the two worst answers."""
    challenger = chain.fresh("challenger of the worst answers")
    measured = _receipt_gas(chain, operator, payer, challenger)
    measured |= _lookup_gas(chain, operator, payer, challenger)
    many, one = (
        _demanded(chain, operator, payer, challenger, keys) for keys in (range(1, IN_CALL + 1), range(1, 2))
    )
    return measured | {f"demand_in_{IN_CALL}": -(-(many - one) // (IN_CALL - 1))}


def _demanded(chain: Chain, operator: Operator, payer: Payer, challenger: LocalSigner, keys: range) -> int:
    operator.commit([payer], TOTAL)
    return _demand(chain, challenger, operator, Tree.ENTRIES, [*keys])


def _receipt_gas(chain: Chain, operator: Operator, payer: Payer, challenger: LocalSigner) -> dict[str, int]:
    records = _registered(chain)
    signed = _worst_receipt(chain, payer, records)
    key, charged = to_bytes(receipt_id(signed.receipt)), signed.receipt.charge
    opening, root = _opening(RECEIPTS_TAG, key, charged, TOTAL)
    operator.commit([payer], TOTAL, {"receipts": (root, 2**RECEIPTS_DEPTH)})
    demand = _demand(chain, challenger, operator, Tree.RECEIPTS, [opening.index])
    witness = ReceiptWitness.of(signed, opening, records).abi
    answer = chain.send(
        chain.operator, "Disputes", "answerReceipt", operator.header, witness, signed.signature
    )
    return {"demand": demand, "answer_receipt_worst": answer}


def _lookup_gas(chain: Chain, operator: Operator, payer: Payer, challenger: LocalSigner) -> dict[str, int]:
    lookup, root = _absence(operator.total + TOTAL)
    operator.commit([payer], TOTAL, {"balances": (root, NUM_BALANCES)})
    parent = operator.header
    operator.commit([payer], TOTAL)
    _demand(chain, challenger, operator, Tree.PARENT_BALANCES, [ABSENT_KEY])
    arguments = (operator.header, Tree.PARENT_BALANCES, word(ABSENT_KEY), parent, lookup.abi)
    return {"answer_lookup_worst": chain.send(chain.operator, "Disputes", "answer", *arguments)}


def _demand(chain: Chain, challenger: LocalSigner, operator: Operator, tree: Tree, keys: list[int]) -> int:
    """Demand leaves with more value than their bonds, so that the rest is credited; return the gas."""
    arguments = (operator.header, tree, list(map(word, keys)))
    return chain.send_value(challenger, SURPLUS, "Disputes", "demand", *arguments)


# --- trees ---


def _opening(tag: bytes, key: bytes, value: int, total: int) -> tuple[Opening, bytes]:
    """Return an opening of one of 2^20 leaves that sum to `total`, and the root that it implies."""
    sums = _sums(total - value, RECEIPTS_DEPTH)
    opening = Opening(0xA5A5A, value, _path(sums))
    return opening, resolve(tag, key, 2**RECEIPTS_DEPTH, opening).root


def _absence(total: int) -> tuple[Lookup, bytes]:
    """Return the look-up of a key between two adjacent balances, and the root of the balances."""
    left_value, right_value, *sums = _sums(total, BALANCES_DEPTH + 1)
    path = _path(sums)
    left, right = (keccak(BALANCES_TAG + word(key)) for key in (LEFT_KEY, RIGHT_KEY))
    openings = (
        Opening(INDEX, left_value, right_value.to_bytes(16, "big") + right + path),
        Opening(INDEX + 1, right_value, left_value.to_bytes(16, "big") + left + path),
    )
    roots = {
        resolve(BALANCES_TAG, word(key), NUM_BALANCES, opening).root
        for key, opening in zip((LEFT_KEY, RIGHT_KEY), openings, strict=True)
    }
    return Lookup((LEFT_KEY, RIGHT_KEY), openings), roots.pop()


def _sums(total: int, count: int) -> list[int]:
    part, rest = divmod(total, count)
    return [part + rest, *[part] * (count - 1)]


def _path(sums: list[int]) -> bytes:
    return b"".join(s.to_bytes(16, "big") + keccak(bytes([i])) for i, s in enumerate(sums))


# --- the receipt ---


def _registered(chain: Chain) -> tuple[VersionRecord, ...]:
    """Register four versions that were trained on four snapshots each."""
    contributor, creator = chain.fresh("contributor of four"), chain.fresh("creator of the worst")
    chain.send(chain.operator, "DatasetRegistry", "createDatanet", ascii_word("worst"), keccak(b"folder"))
    for i in range(NUM_SNAPSHOTS):
        content = keccak(f"worst {i}".encode())
        parts = (DATANET, content, keccak(b"folder"), ascii_word("MIT"), 100)
        chain.send(contributor, "DatasetRegistry", "contribute", parts)
        chain.send(chain.operator, "DatasetRegistry", "review", DATANET, [(content, True, 0)])
        chain.send(chain.operator, "DatasetRegistry", "freeze", DATANET, i + 1)
    snapshots = tuple(
        snapshot_id(DATANET, i + 1, accepted_hash([True] * (i + 1))) for i in range(NUM_SNAPSHOTS)
    )
    records = tuple(
        VersionRecord(
            creator=creator.account,
            name=f"the-worst-version-of-them-all-{i}",
            adapter_digest=SOME,
            cid_digest=SOME,
            base_model=SOME,
            snapshots=snapshots,
            prompt_price=1_500_000,
            completion_price=2_000_000,
            operator_ppm=200_000,
            creator_ppm=300_000,
        )
        for i in range(NUM_SLICES)
    )
    for record in records:
        chain.send(creator, "AdapterRegistry", "register", record_argument(record))
    return records


def _worst_receipt(chain: Chain, payer: Payer, records: tuple[VersionRecord, ...]) -> SignedReceipt:
    """Return a signed receipt whose lists have as few zero bytes as possible: they are cheaper calldata."""
    part = PPM // LIST_ITEMS
    shares = tuple(
        Share((NUM_SNAPSHOTS - 1 << 24) + 0xABCDEF + i, part if i else PPM - part * (LIST_ITEMS - 1))
        for i in range(LIST_ITEMS)
    )
    slices = tuple(Slice(version_id(record), PPM // NUM_SLICES, shares) for record in records)
    fields = {"request_hash": SOME, "response_hash": SOME, "served_at": 1_800_000_000}
    receipt = new_receipt(payer.channel, 0, METHOD, slices, records, (20, 200), cumulative=TOTAL, **fields)
    digest = chain.domain("Settlement").receipt_digest(receipt)
    return SignedReceipt(receipt, METHOD, slices, local_account(RECEIPT_KEY).sign(digest))
