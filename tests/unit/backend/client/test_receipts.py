"""Verification without an index: a file with the market's documents, the pinned deployment, and a node."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.api.schemas.registry import VersionView
from backend.client import evidence
from backend.client.errors import ApiError
from backend.client.evidence import fetch_evidence
from backend.client.receipt_file import parse_with_evidence
from backend.client.receipts import ReceiptVerification, recover
from backend.domain.deployment import Deployment
from backend.domain.errors import InvalidInput
from backend.domain.ids import ZERO_ACCOUNT, ZERO_HASH
from tests.support.market import CHAIN_ID, Key, some_account, some_hash
from tests.support.settlement_harness import SettlementHarness
from tests.unit.clients.typescript.test_twins import manifests, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Document = dict[str, Any]
NAMES = ("hash", "signature", "slices", "charge", "batch")


class ANode:
    """A node of the harness's chain."""

    def __init__(self, harness: SettlementHarness) -> None:
        (batch,) = harness.chain.batches(harness.market.operator)
        self.answers: dict[str, Callable[..., Any]] = {
            "operatorOfKey": lambda key: (
                harness.market.operator if key == harness.market.receipt_key.account else ZERO_ACCOUNT
            ),
            "retiredAt": lambda _key: 0,
            "isReceiptKey": lambda _key, _operator, committed_at: committed_at <= self.retired_at,
            "versionOf": lambda version: {"registeredAt": int(version in harness.market.records)},
            "batchHashAt": lambda _operator, number: batch.hash if number == batch.number else ZERO_HASH,
        }
        self.committed_at = int(batch.header["committedAt"])
        self.retired_at = 0

    def retire(self, at: int) -> None:
        self.retired_at = at
        self.answers["retiredAt"] = lambda _key: at

    def read(self, _contract: str, function: str, *args: Any) -> Any:
        return self.answers[function](*args)


@pytest.fixture
def harness(tmp_path: Path) -> Iterator[SettlementHarness]:
    harness = SettlementHarness(tmp_path)
    yield harness
    harness.database.close()


@pytest.fixture
def files(harness: SettlementHarness) -> list[Document]:
    """All receipts of one batch, each with all documents about it."""
    market = harness.market
    versions = [VersionView.of(*item).model_dump(mode="json") for item in market.records.items()]
    documents = {"versions": versions, "snapshots": manifests(harness)}
    return [receipt | {"evidence": documents | {"proof": proof}} for receipt, proof in settled(harness)]


def results(harness: SettlementHarness, file: Document, node: Any = None) -> dict[str, bool | None]:
    receipt, evidence = parse_with_evidence(json.dumps(file).encode())
    deployment = Deployment(CHAIN_ID, 1, some_hash("block"), {"Settlement": harness.market.settlement})
    checks = ReceiptVerification(receipt, evidence, deployment, node).checks()
    assert tuple(check.name for check in checks) == NAMES
    return {check.name: check.is_right for check in checks}


def changed(file: Document, *path: str | int, to: Any) -> Document:
    document = copy.deepcopy(file)
    inner: Any = document
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return document


def test_with_a_node_every_receipt_of_an_honest_batch_is_right(
    harness: SettlementHarness, files: list[Document]
) -> None:
    node = ANode(harness)
    for file in files:
        assert results(harness, file, node) == dict.fromkeys(NAMES, True)


def test_without_a_node_facts_of_the_chain_are_open(
    harness: SettlementHarness, files: list[Document]
) -> None:
    for file in files:
        found = results(harness, file)
        assert found == dict.fromkeys(NAMES, None) | {"hash": True, "slices": True}


def test_without_documents_charge_and_batch_are_open(
    harness: SettlementHarness, files: list[Document]
) -> None:
    node, file = ANode(harness), {name: value for name, value in files[0].items() if name != "evidence"}
    opened = dict.fromkeys(NAMES, True) | {"charge": None, "batch": None}
    assert results(harness, file, node) == opened
    for missing, check in (("proof", "batch"), ("versions", "charge")):
        less = {name: value for name, value in files[0]["evidence"].items() if name != missing}
        found = results(harness, files[0] | {"evidence": less}, node)
        assert found == dict.fromkeys(NAMES, True) | {check: None}


def test_shares_are_open_without_the_manifests_of_their_snapshots(
    harness: SettlementHarness, files: list[Document]
) -> None:
    node = ANode(harness)
    shared = next(file for file in files if any(part["packed"] != "0x" for part in file["slices"]))
    assert results(harness, changed(shared, "evidence", "snapshots", to=[]), node)["charge"] is None
    manifests = copy.deepcopy(shared["evidence"]["snapshots"])
    for manifest in manifests:
        manifest["contributions"] = manifest["contributions"][1:]  # which is the manifest of another snapshot
    assert results(harness, changed(shared, "evidence", "snapshots", to=manifests), node)["charge"] is None


@pytest.mark.parametrize("field", ["cumulative", "charge"])
def test_a_changed_amount_is_not_what_was_signed_and_is_not_in_the_batch(
    harness: SettlementHarness, files: list[Document], field: str
) -> None:
    file = files[0]
    amount = str(int(file["receipt"][field]) + 1)
    found = results(harness, changed(file, "receipt", field, to=amount), ANode(harness))
    assert (found["hash"], found["signature"], found["batch"]) == (False, False, False)


def test_an_opening_or_a_batch_of_another_receipt_proves_nothing(
    harness: SettlementHarness, files: list[Document]
) -> None:
    first, second = files[0], files[1]
    node = ANode(harness)
    swapped = changed(first, "evidence", "proof", to=second["evidence"]["proof"])
    assert results(harness, swapped, node)["batch"] is False
    spans = "0x" + first["evidence"]["proof"]["spans"][2:][::-1]
    assert results(harness, changed(first, "evidence", "proof", "spans", to=spans), node)["batch"] is False
    foreign = changed(first, "operator", to=some_account("another operator"))
    assert results(harness, foreign, node)["batch"] is False


def test_the_node_decides_whose_key_it_is_and_what_is_recorded(
    harness: SettlementHarness, files: list[Document]
) -> None:
    for function, answer, check, expected in (
        ("operatorOfKey", some_account("another operator"), "signature", False),
        ("versionOf", {"registeredAt": 0}, "charge", False),
        ("batchHashAt", ZERO_HASH, "batch", None),
        ("batchHashAt", some_hash("another batch"), "batch", False),
    ):
        node = ANode(harness)
        node.answers[function] = lambda *_, answer=answer: answer
        assert results(harness, files[0], node) == dict.fromkeys(NAMES, True) | {check: expected}


def test_a_retired_key_counts_for_batches_before(harness: SettlementHarness, files: list[Document]) -> None:
    for later, expected in ((0, True), (-1, None)):
        node = ANode(harness)
        node.retire(node.committed_at + later)
        assert results(harness, files[0], node)["signature"] is expected
    node.retire(node.committed_at)
    unproved = changed(files[0], "evidence", "proof", to=None)
    assert results(harness, unproved, node)["signature"] is None


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("proof", "header", "total"), "many"),
        (("proof", "header", "operator"), "0xyz"),
        (("proof", "header"), {}),
        (("proof", "receipt", "path"), "0x00"),
        (("proof", "spans"), "0x12"),
        (("versions", 0, "record"), {"creator": 7}),
        (("versions", 0, "record", "promptPrice"), "-1"),
        (("snapshots", 0, "count"), -1),
    ],
)
def test_malformed_documents_are_refused(
    files: list[Document], path: tuple[str | int, ...], value: Any
) -> None:
    file = changed(files[0], "evidence", *path, to=value)
    with pytest.raises(InvalidInput):
        parse_with_evidence(json.dumps(file).encode())


def test_a_signature_names_its_key_and_a_malformed_one_is_wrong(
    harness: SettlementHarness, files: list[Document]
) -> None:
    digest = some_hash("digest")
    key = Key("receipt key")
    assert recover(bytes.fromhex(digest[2:]), key.sign(bytes.fromhex(digest[2:]))) == key.account
    for signature in ("0x" + "00" * 65, "0x" + "ff" * 64 + "1b"):
        file = changed(files[0], "signature", to=signature)
        assert results(harness, file, ANode(harness))["signature"] is False


def test_the_documents_are_fetched_from_the_market(files: list[Document]) -> None:
    file = files[-1]
    evidence = file["evidence"]
    versions = {version["id"]: version for version in evidence["versions"]}
    asked: list[str] = []

    def get(path: str) -> Any:
        asked.append(path)
        if path.endswith("/proof"):
            raise ApiError("not yet", details={"code": "not_committed"})
        return versions.get(path.rpartition("/")[2], {"manifest": path})

    said = list[str]()
    found = fetch_evidence(SimpleNamespace(get=get), file, said.append)  # type: ignore[arg-type]
    assert "proof" not in found
    assert said == ["there is no proof of the receipt's batch (not yet); repeat the command later to get it"]
    assert [version["id"] for version in found["versions"]] == [part["version_id"] for part in file["slices"]]
    named = {snapshot for version in found["versions"] for snapshot in version["record"]["snapshots"]}
    assert {each["manifest"] for each in found["snapshots"]} == {f"/v1/snapshots/{s}/manifest" for s in named}


@pytest.mark.parametrize("is_proved", [True, False])
def test_a_proof_of_a_batch_that_is_audited_is_waited_for(
    files: list[Document], monkeypatch: pytest.MonkeyPatch, *, is_proved: bool
) -> None:
    monkeypatch.setattr(evidence, "POLL_SECONDS", 0)
    monkeypatch.setattr(evidence, "PROOF_SECONDS", 60 if is_proved else -1)
    refusals, said = iter(range(3)), list[str]()

    def get(path: str) -> Any:
        if path.endswith("/proof") and next(refusals, None) is not None:
            raise ApiError("still audited; try again", details={"code": "unavailable"})
        return {"record": {"snapshots": []}, "path": path}

    found = fetch_evidence(SimpleNamespace(get=get), files[-1], said.append)  # type: ignore[arg-type]
    assert ("proof" in found) is is_proved
    (line,) = said
    assert ("waiting" if is_proved else "repeat the command later") in line


def test_a_market_that_refuses_a_proof_for_another_reason_is_an_error(files: list[Document]) -> None:
    def get(path: str) -> Any:
        if path.endswith("/proof"):
            raise ApiError("the batch is wrong", details={"code": "wrong_batch"})
        return {"record": {"snapshots": []}}

    with pytest.raises(ApiError, match="the batch is wrong"):
        fetch_evidence(SimpleNamespace(get=get), files[-1], pytest.fail)  # type: ignore[arg-type]
