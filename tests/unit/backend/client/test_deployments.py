from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from backend.client.deployments import pinned_deployment
from backend.domain.errors import InvalidInput, NotFound
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from pathlib import Path


def record(folder: Path, chain_id: int, address: object = some_account("vault")) -> Path:
    raw = {"chain_id": chain_id, "block_number": 1, "block_hash": some_hash("block"), "profile": "ethereum"}
    path = folder / f"{chain_id}.json"
    path.write_text(json.dumps(raw | {"addresses": {"PaymentVault": address}}))
    return path


def test_a_record_is_chosen_by_its_file_or_its_chain(tmp_path: Path) -> None:
    path = record(tmp_path, 10)
    (tmp_path / "10.journal.json").write_text("{}")
    only = pinned_deployment("", tmp_path)
    assert only == pinned_deployment("10", tmp_path) == pinned_deployment(str(path), tmp_path / "none")
    assert only.address("PaymentVault") == some_account("vault")


def test_without_a_choice_nothing_is_taken_from_the_market(tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"shipped one \(none\): addresses are never taken from the market"
    ):
        pinned_deployment("", tmp_path)
    record(tmp_path, 10)
    record(tmp_path, 8453)
    with pytest.raises(InvalidInput, match=r"\(10, 8453\)"):
        pinned_deployment("", tmp_path)
    with pytest.raises(NotFound, match="no record of chain 1 is shipped"):
        pinned_deployment("1", tmp_path)


def test_a_file_that_is_no_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no deployment record"):
        pinned_deployment(str(tmp_path / "none.json"))
    for address in ("0x12", 7, some_account("vault").upper()):
        path = record(tmp_path, 10, address)
        with pytest.raises(InvalidInput, match=r"PaymentVault is .* not a lower-case address"):
            pinned_deployment(str(path))
    path.write_bytes(b"\xff<html>")
    with pytest.raises(InvalidInput, match="is not a deployment file"):
        pinned_deployment(str(path))
