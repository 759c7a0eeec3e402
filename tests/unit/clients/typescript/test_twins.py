"""Receipts that Python signs, and changes of each of their fields: TypeScript finds what Python finds."""

from __future__ import annotations

import copy
import json
import subprocess
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from backend.api.schemas.receipts import ReceiptDetail, ReceiptProofView
from backend.api.schemas.registry import VersionView
from backend.chain.keys import recover
from backend.client.receipt_file import parse_receipt
from backend.domain.errors import InvalidInput
from backend.domain.hashing import attribution_hash, keccak, receipt_id, slices_hash, to_hash
from backend.domain.receipt import Receipt
from backend.services.receipts.receipts import Receipts
from backend.services.receipts.verification import Verification
from tests.support.receipt_proofs import read_back
from tests.support.settlement_harness import SettlementHarness

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.ids import Hash32

Document = dict[str, Any]
ROOT = Path(__file__).parents[4]
NUM_RECEIPTS, CHANGES = 12, 20
SHARED = ("hash", "signature", "slices", "charge", "charged")
UNREAD = {"payer", "batch", "batch_state", "batch_hash", "tx_hash", "block_number", "shares"}
"""Keys of the API's documents that no verification reads."""


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path)
    yield harness
    harness.database.close()


def settled(harness: SettlementHarness, *, with_charges: bool = False) -> list[tuple[Document, Document]]:
    """Receipts of one batch and their proofs, as their payers see them in the API. `with_charges`: a third of
    the receipts follow charges.
    """
    channel = harness.market.channels[0]
    signed = [
        harness.charge(channel) if with_charges and n % 3 == 0 else harness.serve()
        for n in range(NUM_RECEIPTS)
    ]
    ids = [receipt_id(one.receipt) for one in signed]
    harness.chain.time += 60
    harness.settler().run_once(is_forced=True)
    assert harness.mine()
    receipts = Receipts(harness)  # type: ignore[arg-type]
    proofs = harness.proofs()
    shown = []
    for receipt in ids:
        view = receipts.get(receipt)
        detail = ReceiptDetail.for_viewer(view, view.stored.payer).model_dump(mode="json")
        proof = ReceiptProofView.of(proofs.inclusion(receipt)).model_dump(mode="json")
        shown.append((without(detail, UNREAD), without(proof, UNREAD)))
    return shown


def without(document: Any, keys: set[str]) -> Any:
    """A document without these keys at any depth."""
    if isinstance(document, list):
        return [without(item, keys) for item in document]
    if isinstance(document, dict):
        return {key: without(value, keys) for key, value in document.items() if key not in keys}
    return document


def manifests(harness: SettlementHarness) -> list[Document]:
    market = harness.market
    found = []
    for datanet, count in enumerate(market.snapshots.values(), 1):
        contributions = [market.contribution(datanet, index) for index in range(count)]  # type: ignore[arg-type]
        named = [
            {"index": c.index, "contributor": c.contributor, "contentHash": c.content_hash}
            for c in contributions
            if c is not None
        ]
        shown = {"format": "loraledger-snapshot-1", "datanetId": datanet, "count": count}
        found.append({**shown, "contributions": named})
    return found


def change(document: Document, random: Random) -> None:
    """Change one value slightly, or make it malformed."""
    container: Any = document
    key = random.choice(list(container))
    while isinstance(container[key], (dict, list)) and container[key]:
        container = container[key]
        key = random.choice(list(container) if isinstance(container, dict) else range(len(container)))
    value = container[key]
    if random.random() < 0.1:
        container[key] = random.choice([None, [], "0x", -1, 1.5, {}])
    elif isinstance(value, str) and value.startswith("0x") and len(value) > 2:
        at = random.randrange(2, len(value))
        container[key] = value[:at] + random.choice("0123456789abcdef") + value[at + 1 :]
    elif isinstance(value, str):
        container[key] = str(int(value) + 1) if value.isdigit() else value + "x"
    elif isinstance(value, int):
        container[key] = value + random.choice([-1, 1])


def signed_anew(harness: SettlementHarness, document: Document) -> None:
    """Let the operator sign a changed receipt, if it has a receipt's form."""
    try:
        signed = parse_receipt(json.dumps(document).encode()).signed
    except InvalidInput:
        return
    body = document["receipt"]
    body["slices_hash"] = slices_hash(signed.slices)
    body["attribution_hash"] = attribution_hash(signed.method, signed.slices)
    receipt = Receipt(**{**body, "cumulative": int(body["cumulative"]), "charge": int(body["charge"])})
    document["id"] = receipt_id(receipt)
    document["signature"] = harness.market.receipt_key.sign(harness.market.domain.receipt_digest(receipt))


def committed_hash(harness: SettlementHarness) -> Hash32:
    return harness.chain.batches(harness.market.operator)[-1].hash


def by_python(verification: Verification, receipt: Document, proof: Document, committed: Hash32) -> Document:
    """The result of each check, and whether the `proof` is right and of a batch on the chain."""
    try:
        file = parse_receipt(json.dumps(receipt).encode())
    except InvalidInput:
        return {"malformed": "receipt"}
    found: Document = {check.name: check.is_right for check in verification.checks(file)}
    try:
        spans_hash = to_hash(keccak(bytes.fromhex(proof["spans"][2:])))
        is_proved = read_back(proof).check(file.signed.receipt) == committed
        return {**found, "proof": is_proved and spans_hash == proof["header"]["spansHash"]}
    except (InvalidInput, ValueError, TypeError, KeyError, AttributeError, OverflowError):
        return {**found, "proof": False}


def by_typescript(harness: SettlementHarness, cases: list[tuple[Document, Document]]) -> list[Document]:
    market = harness.market
    terms = {"id": market.terms.id, "treasury": market.terms.treasury, "feePpm": market.terms.fee_ppm}
    given = {
        "settlement": market.settlement,
        "operator": market.operator,
        "receiptKey": market.receipt_key.account,
        "batchHash": committed_hash(harness),
        "terms": terms,
        "versions": [VersionView.of(*item).model_dump(mode="json") for item in market.records.items()],
        "snapshots": manifests(harness),
        "cases": [{"receipt": receipt, "proof": proof} for receipt, proof in cases],
    }
    node, script = ROOT / "node_modules/.bin/node", Path(__file__).with_name("twins.ts")
    done = subprocess.run(
        [node, script], input=json.dumps(given), capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: list[Document] = json.loads(done.stdout)
    return found


def test_typescript_finds_what_python_finds(
    harness: SettlementHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(20)
    honest = settled(harness, with_charges=True)
    cases = list(honest)
    for receipt, proof in honest:
        for number in range(CHANGES):
            changed, other = copy.deepcopy(receipt), copy.deepcopy(proof)
            change(other if number % 3 == 0 else changed, random)
            if number % 3 == 1:
                signed_anew(harness, changed)
            cases.append((changed, other))
    auditor = harness.auditor()
    monkeypatch.setattr(auditor, "batch", cache(auditor.batch))  # otherwise judged anew for each receipt
    verification = Verification(harness, auditor, recover, harness.market.domain)
    here = [by_python(verification, *case, committed_hash(harness)) for case in cases]
    there = by_typescript(harness, cases)
    failed = {name for found in there for name, is_right in found.items() if is_right is False}
    assert failed == {*SHARED, "batch", "earnings"}
    for (receipt, _), python, typescript in zip(cases, here, there, strict=True):
        is_known = receipt.get("operator") == harness.market.operator
        assert_equal(python, typescript, is_known=is_known)


def assert_equal(python: Document, typescript: Document, *, is_known: bool) -> None:
    """`is_known`: whether the receipt's operator is the market's."""
    both = python, typescript
    if "malformed" in python or typescript.get("malformed") == "receipt":
        assert python == typescript
        return
    is_right = all(python[name] is True for name in ("batch", "charge", "proof"))
    assert is_right == all(typescript.get(name) is True for name in ("batch", "earnings")), both
    if "malformed" not in typescript:
        # Keys of an operator that is not indexed are open; a node says that they are not its keys.
        names = SHARED if is_known else set(SHARED) - {"signature"}
        assert [typescript.get(name) for name in names] == [python.get(name) for name in names], both
