"""Recomputes the worked example by an independent implementation of docs/protocol.md."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from eth_keys.datatypes import Signature
from sha3 import keccak_256

from backend.chain.contracts import interface

ROOT = Path(__file__).parents[3]
CASES = {one["name"]: one for one in json.loads((ROOT / "tests/vectors/example.json").read_text())}
PAGE = (ROOT / "docs/protocol.md").read_text()
PPM = 10**6
RECEIPT_FIELDS = [
    "channelId",
    "cumulative",
    "charge",
    "requestHash",
    "responseHash",
    "slicesHash",
    "promptTokens",
    "completionTokens",
    "attributionHash",
    "servedAt",
]
DOMAIN = "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"

Node = tuple[int, bytes]
"""Sum and hash."""


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


def keccak(*parts: bytes) -> bytes:
    found: bytes = keccak_256(b"".join(parts)).digest()
    return found


def word(value: str) -> bytes:
    return raw(value).rjust(32, b"\0") if value.startswith("0x") else int(value).to_bytes(32, "big")


def pack(node: Node) -> bytes:
    return node[0].to_bytes(16, "big") + node[1]


def unpack(text: str) -> list[Node]:
    packed = raw(text)
    return [
        (int.from_bytes(packed[i : i + 16], "big"), packed[i + 16 : i + 48])
        for i in range(0, len(packed), 48)
    ]


def numbered(name: str) -> list[dict[str, Any]]:
    return [one for key, one in CASES.items() if re.fullmatch(rf"{name} \d+", key)]


def above(level: list[Node]) -> list[Node]:
    pairs = [tuple(level[i : i + 2]) for i in range(0, len(level), 2)]
    return [
        pair[0] if len(pair) == 1 else (pair[0][0] + pair[1][0], keccak(*map(pack, pair))) for pair in pairs
    ]


def climb(leaf: Node, index: int, count: int, path: list[Node]) -> tuple[Node, int]:
    """Return the root, and the sum of the leaves with lower indices."""
    prefix, siblings = 0, iter(path)
    while count > 1:
        if index ^ 1 < count:
            sibling = next(siblings)
            prefix += sibling[0] if index & 1 else 0
            pair = (sibling, leaf) if index & 1 else (leaf, sibling)
            leaf = (pair[0][0] + pair[1][0], keccak(*map(pack, pair)))
        index, count = index // 2, (count + 1) // 2
    assert next(siblings, None) is None
    return leaf, prefix


def leaves(name: str) -> list[Node]:
    tag, parts = keccak(f"loraledger.{name}".encode()), {"receipts": "receipt", "entries": "entry"}
    ones = numbered(parts.get(name, "balance"))
    keys = [raw(one.get("structHash") or one["key"]) for one in ones]
    return [
        (int(one.get("charge") or one["value"]), keccak(tag, key))
        for one, key in zip(ones, keys, strict=True)
    ]


def separator() -> bytes:
    market = CASES["market"]
    named = keccak(DOMAIN.encode()) + keccak(b"loraledger") + keccak(b"1")
    return keccak(named, word(market["chainId"]), word(market["settlement"]))


def versions() -> dict[bytes, dict[str, Any]]:
    return {raw(CASES[name]["versionId"]): CASES[name] for name in ("adapter", "base")}


def slices_of(receipt: dict[str, Any]) -> list[tuple[dict[str, Any], int, bytes]]:
    """Return record, weight and list of each slice."""
    packed, known = raw(receipt["slices"]), versions()
    cut = [packed[i : i + 36] for i in range(0, len(packed), 36)]
    lists = map(raw, receipt["lists"])
    return [
        (known[one[:32]], int.from_bytes(one[32:], "big"), shares)
        for one, shares in zip(cut, lists, strict=True)
    ]


def shares_of(packed: bytes) -> list[tuple[int, int]]:
    numbers = [int.from_bytes(packed[i : i + 4], "big") for i in range(0, len(packed), 4)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def charge_of(receipt: dict[str, Any], record: dict[str, Any], weight: int) -> int:
    prompt = int(receipt["promptTokens"]) * int(record["promptPrice"])
    completion = int(receipt["completionTokens"]) * int(record["completionPrice"])
    return weight * (prompt + completion) // PPM


def parts_of(charge: int, record: dict[str, Any], shares: bytes) -> list[tuple[str, int]]:
    """Return the account and amount of each part of a slice."""
    market, contributors = CASES["market"], CASES["snapshot"]["contributors"]
    fee = charge * int(market["feePpm"]) // PPM
    operator, creator = ((charge - fee) * int(record[f"{who}Ppm"]) // PPM for who in ("operator", "creator"))
    pool = charge - fee - operator - creator
    parts = [(market["treasury"], fee), (market["operator"], operator), (record["creator"], creator)]
    listed = shares_of(shares)
    if not listed:
        return [*parts, (market["treasury"], pool)]
    amounts = [pool * ppm // PPM for _, ppm in listed]
    largest = max(range(len(listed)), key=lambda j: (listed[j][1], -j))
    amounts[largest] += pool - sum(amounts)
    earners = [contributors[position & 0xFFFFFF] for position, _ in listed]
    return [*parts, *zip(earners, amounts, strict=True)]


def test_snapshot_and_versions_are_hashes_of_their_words() -> None:
    snapshot = CASES["snapshot"]
    assert keccak(raw(snapshot["accepted"])) == raw(snapshot["acceptedHash"])
    preimage = b"".join(word(snapshot[name]) for name in ("datanetId", "count", "acceptedHash"))
    assert keccak(preimage) == raw(snapshot["snapshotId"])
    names = ["creator", "word", "adapterDigest", "cidDigest", "baseModel"]
    numbers = ["promptPrice", "completionPrice", "operatorPpm", "creatorPpm"]
    for record in versions().values():
        # A dynamic struct: an offset to it, then its fields, the array's offset in its place, then the array.
        head = (
            [word(record[name]) for name in names] + [word(str(10 * 32))] + [word(record[n]) for n in numbers]
        )
        tail = [word(str(len(record["snapshots"]))), *map(word, record["snapshots"])]
        assert keccak(word("32"), *head, *tail) == raw(record["versionId"])


@pytest.mark.parametrize("number", range(3))
def test_a_receipt_is_priced_hashed_and_signed(number: int) -> None:
    receipt, declared = CASES[f"receipt {number}"], re.search(r"^Receipt\(.*?\)", PAGE, re.MULTILINE)
    assert declared is not None
    charges = [charge_of(receipt, record, weight) for record, weight, _ in slices_of(receipt)]
    assert (list(map(str, charges)), str(sum(charges))) == (receipt["charges"], receipt["charge"])
    assert keccak(raw(receipt["slices"])) == raw(receipt["slicesHash"])
    method = receipt["method"].encode().ljust(32, b"\0")
    attribution = method + b"".join(keccak(shares) for _, _, shares in slices_of(receipt))
    assert attribution == raw(receipt["attribution"])
    assert keccak(attribution) == raw(receipt["attributionHash"])
    assert keccak(bytes(32), b"{}") == raw(receipt["requestHash"])
    assert keccak(bytes(32), (6).to_bytes(8, "big"), b"Paris.") == raw(receipt["responseHash"])
    struct_hash = keccak(keccak(declared[0].encode()), *(word(receipt[name]) for name in RECEIPT_FIELDS))
    assert struct_hash == raw(receipt["structHash"])
    digest = keccak(b"\x19\x01", separator(), struct_hash)
    assert digest == raw(receipt["digest"])
    signature = raw(receipt["signature"])
    signer = Signature(signature[:64] + bytes([signature[64] - 27])).recover_public_key_from_msg_hash(digest)
    assert signer.to_address() == CASES["market"]["receiptKey"]


def test_entries_follow_from_receipts_and_balances_from_entries() -> None:
    entries: dict[int, int] = {}
    for index, receipt in enumerate(numbered("receipt")):
        for number, (record, weight, shares) in enumerate(slices_of(receipt)):
            parts = parts_of(charge_of(receipt, record, weight), record, shares)
            for part, (account, value) in enumerate(parts):
                if value:
                    entries[int(account, 16) << 64 | index << 32 | number << 16 | part] = value
    assert sorted(entries.items()) == [(int(e["key"], 16), int(e["value"])) for e in numbered("entry")]
    balances: dict[int, int] = {}
    for key, value in entries.items():
        balances[key >> 64] = balances.get(key >> 64, 0) + value
    assert sorted(balances.items()) == [(int(b["key"], 16), int(b["value"])) for b in numbered("balance")]


@pytest.mark.parametrize("name", ["receipts", "entries", "balances"])
def test_a_tree_is_built_from_its_leaves(name: str) -> None:
    tree, level = CASES[f"{name} tree"], leaves(name)
    assert len(level) == int(tree["count"])
    nodes: list[Node] = []
    while len(level) > 1:
        level = above(level)
        nodes += level
    assert [pack(node) for node in nodes] == list(map(raw, tree["nodes"]))
    assert level == [(int(tree["sum"]), raw(tree["root"]))]


@pytest.mark.parametrize("name", ["header", "forged header"])
def test_a_batch_hash_is_that_of_its_eighteen_words(name: str) -> None:
    header = CASES[name]
    fields = [value for key, value in header.items() if key not in ("name", "batchHash")]
    assert len(fields) == 18
    assert keccak(*map(word, fields)) == raw(header["batchHash"])


def test_the_receipts_cover_the_spans() -> None:
    first, second, third = numbered("receipt")
    ends = ((second["channelId"], int(second["cumulative"])), (third["channelId"], int(third["cumulative"])))
    packed = b"".join(raw(channel) + bytes(32) + until.to_bytes(16, "big") for channel, until in ends)
    assert packed == raw(CASES["spans"]["spans"])
    assert keccak(packed) == raw(CASES["header"]["spansHash"])
    assert first["channelId"] == second["channelId"] < third["channelId"]


def test_the_batch_data_is_canonical_and_has_the_receipts() -> None:
    lines = CASES["data"]["text"].splitlines()
    for line in lines:
        assert json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")) == line
    for line, receipt in zip(lines[1:], numbered("receipt"), strict=True):
        shown = json.loads(line)
        assert all(shown[name] == receipt[name] for name in (*RECEIPT_FIELDS, "method", "signature"))


def test_the_claim_opens_the_stored_balances() -> None:
    claim, tree = CASES["claim"], CASES["balances tree"]
    leaf = (int(claim["value"]), keccak(keccak(b"loraledger.balances"), word(claim["account"])))
    root, _ = climb(leaf, int(claim["index"]), int(claim["balancesCount"]), unpack(claim["path"]))
    assert root == (int(tree["sum"]), raw(tree["root"]))
    assert int(claim["units"]) == int(claim["value"]) // PPM


def test_the_proof_shows_an_entry_that_differs_from_the_split() -> None:
    proof, header, receipt = CASES["proof"], CASES["forged header"], CASES["receipt 0"]
    leaf = (int(proof["value"]), keccak(keccak(b"loraledger.entries"), raw(proof["key"])))
    root, _ = climb(leaf, int(proof["index"]), int(header["entriesCount"]), unpack(proof["path"]))
    assert root == (int(header["total"]), raw(header["entriesRoot"]))
    above_receipt = (int(receipt["charge"]), raw(receipt["leafHash"]))
    root, _ = climb(above_receipt, 0, int(header["receiptsCount"]), unpack(proof["receiptPath"]))
    assert root == (int(header["total"]), raw(header["receiptsRoot"]))
    ((record, weight, shares),) = slices_of(receipt)
    account, expected = parts_of(charge_of(receipt, record, weight), record, shares)[int(proof["part"])]
    assert int(proof["key"], 16) == int(account, 16) << 64 | int(proof["part"])
    assert expected == int(proof["expected"]) != int(proof["value"])


def test_the_call_contains_the_arguments_on_the_page() -> None:
    proof, entry = CASES["proof"], interface("Disputes").by_selector(raw(CASES["proof"]["data"])[:4])
    assert entry is not None
    assert entry.name == proof["function"]
    args = entry.decode_args(raw(proof["data"])[4:])
    assert args["witness"]["opening"]["path"] == proof["receiptPath"]
    assert args["place"]["contentHash"] == proof["contentHash"]
    assert args["lookup"]["openings"] == [
        {"index": int(proof["index"]), "value": int(proof["value"]), "path": proof["path"]}
    ]


def test_every_hash_on_the_page_is_in_the_vectors() -> None:
    known = json.dumps(list(CASES.values()))
    shown = re.findall(r"0x[0-9a-f]{40,}", PAGE.split("## A worked example")[1])
    assert len(shown) > 90
    assert all(one[2:] in known for one in shown)
