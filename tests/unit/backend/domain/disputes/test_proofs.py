"""Encodings of disputes, compared with the shared vectors and with an independent encoder."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from eth_abi.abi import encode

from backend.chain.contracts import interface
from backend.domain.batch import CommitTerms, OperatorLedger
from backend.domain.disputes.lookups import InvalidWitness, TreeRoot
from backend.domain.disputes.witnesses import (
    AnsweredReceipt,
    Fault,
    Lookup,
    ReceiptWitness,
    Tree,
    leaf_id,
    opening_from_chain,
    receipt_abi,
    receipt_from_chain,
)
from backend.domain.hashing import keccak, receipt_id, to_bytes, to_hash
from backend.domain.merkle import Opening
from tests.support.batch_factory import in_memory_factory
from tests.support.dishonest_operator import Draft

CASES = json.loads((Path(__file__).parents[5] / "tests/vectors/disputes.json").read_text())
FACTORY = in_memory_factory()


def cases(field: str) -> list[dict[str, Any]]:
    """Each kind of case has a field of its own."""
    return [case for case in CASES if field in case]


@pytest.mark.parametrize("case", cases("leafId"))
def test_a_leafs_id_is_the_hash_of_its_encoding(case: dict[str, Any]) -> None:
    tree, key = Tree(int(case["tree"])), int(case["key"], 16)
    fields = (to_bytes(case["batchHash"]), int(tree), to_bytes(case["key"]))
    encoded = encode(["bytes32", "uint8", "bytes32"], fields)
    assert leaf_id(case["batchHash"], tree, key) == case["leafId"] == to_hash(keccak(encoded))


@pytest.mark.parametrize("case", cases("prefix"))
def test_a_lookup_proves_the_value_under_its_key_only(case: dict[str, Any]) -> None:
    root = TreeRoot(to_bytes(case["tag"]), to_bytes(case["root"]), int(case["count"]), int(case["sum"]))
    openings = [
        {"index": index, "value": value, "path": path}
        for index, value, path in zip(case["indices"], case["values"], case["paths"], strict=True)
    ]
    lookup = Lookup.from_chain({"keys": case["keys"], "openings": openings})
    key = int(case["key"], 16)
    assert root.find(key, lookup) == (int(case["value"]), int(case["prefix"]))
    assert Lookup.from_chain(lookup.abi) == lookup
    other = 3 if 13 in lookup.keys else 13
    with pytest.raises(InvalidWitness):
        root.find(other, lookup)


@pytest.mark.parametrize("case", cases("data"), ids=lambda case: case["function"])
def test_a_proof_as_a_call_is_decoded_to_what_it_was_made_of(case: dict[str, Any]) -> None:
    data = to_bytes(case["data"])
    entry = interface("Disputes").by_selector(data[:4])
    assert entry is not None
    assert entry.name == case["function"]
    args = entry.decode_args(data[4:])
    assert entry.encode(tuple(args.values())) == data
    if "receipt" in args.get("witness", {}):
        witness = ReceiptWitness.from_chain(args["witness"])
        assert ReceiptWitness.from_chain(witness.abi) == witness
        assert receipt_id(witness.receipt) == case["receiptId"]


def test_an_answered_receipt_equals_that_of_the_batch_data() -> None:
    draft = Draft.of(FACTORY.batch(Random(5), OperatorLedger(), 4))
    for index, signed in enumerate(draft.receipts):
        records = [FACTORY.version(s.version_id) for s in signed.slices]
        opening = draft.batch.open_receipt(index)
        witness = ReceiptWitness.of(signed, opening, [record for record in records if record])
        entry = interface("Disputes").function("answerReceipt", range(3))
        header = draft.commit(CommitTerms(1, 2)).header
        data = entry.encode((header.abi, witness.abi, signed.signature))
        args = entry.decode_args(data[4:])
        assert AnsweredReceipt.from_chain(args).signed == signed


def test_receipts_and_openings_survive_decimal_text() -> None:
    signed = FACTORY.batch(Random(1), OperatorLedger(), 1).receipts[0]
    text = {name: str(value) for name, value in receipt_abi(signed.receipt).items()}
    assert receipt_from_chain(text) == signed.receipt
    assert opening_from_chain({"index": "3", "value": "9", "path": "0x0102"}) == Opening(3, 9, b"\x01\x02")


def test_trees_and_faults_are_numbered_as_in_the_contract() -> None:
    source = (Path(__file__).parents[5] / "contracts/interfaces/IDisputes.sol").read_text()
    for enum in (Tree, Fault):
        body = source.split(f"enum {enum.__name__} {{")[1].split("}")[0]
        names = [line.split("//")[0].strip(" ,") for line in body.strip().splitlines()]
        assert [one.name.replace("_", "") for one in enum] == [name.upper() for name in names]
