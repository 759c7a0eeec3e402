from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.cli.actor import Actor
from backend.cli.main import app
from backend.cli.operator import verification
from backend.client import evidence, pending_receipts
from backend.domain.errors import InvalidInput, NotFound
from tests.support.market import CHAIN_ID, Market, some_account, some_hash
from tests.support.receipt_files import following_a_charge

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture(autouse=True)
def _in_an_empty_home(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def opened() -> Iterator[Any]:
        yield SimpleNamespace(database=sqlite_database, check_database=lambda: None)

    monkeypatch.setattr(verification, "open_installation", opened)


def failure(*arguments: str) -> BaseException | None:
    return CliRunner().invoke(app, ["receipts", "verify", *arguments]).exception


@pytest.mark.parametrize("receipt", ["nothing.json", some_hash("unknown"), "0x12"])
def test_an_argument_that_is_neither_a_file_nor_an_id_is_named(receipt: str) -> None:
    error = failure(receipt)
    assert isinstance(error, NotFound)
    assert receipt in str(error)


def test_a_file_without_a_receipt_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "receipt.json"
    path.write_text('{"id": "0x12"}')
    assert isinstance(failure(str(path)), InvalidInput)


def test_an_answer_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    answer = tmp_path / "answer.bin"
    answer.write_bytes(b"\xff")
    error = failure("receipt.json", "--answer", str(answer))
    assert isinstance(error, InvalidInput)
    assert "not text in UTF-8" in str(error)


def charge_check(tmp_path: Path, shown: Any, charge: str) -> Any:
    """The check `charged` of a file."""
    file, record = tmp_path / "receipt.json", tmp_path / "record.json"
    file.write_text(json.dumps(shown))
    pinned = {"chain_id": CHAIN_ID, "block_number": 1, "block_hash": some_hash("block")}
    record.write_text(json.dumps({**pinned, "addresses": {"Settlement": some_account("Settlement")}}))
    arguments = ("--standalone", "--deployment", str(record), "--charge", charge, "--json")
    found = CliRunner().invoke(app, ["receipts", "verify", str(file), *arguments])
    check = json.loads(found.stdout)[-1]
    assert (check["name"], found.exit_code) == ("charged", 0 if check["is_right"] else 1)
    return check


def test_a_receipt_of_another_charge_than_the_payer_got_is_wrong(tmp_path: Path) -> None:
    market = Market()
    promised, charged = (following_a_charge(market.serve()) for _ in range(2))
    got = promised["signed_charge"]["id"]
    assert charge_check(tmp_path, promised, got)["is_right"] is True
    assert charge_check(tmp_path, charged, got)["is_right"] is False
    unstated = charge_check(tmp_path, promised | {"signed_charge": None}, got)
    assert unstated["message"].startswith("the file states no charge")


@pytest.mark.parametrize("charge", ["charge-1", "0x12", some_hash("charge") + "0"])
def test_what_is_no_id_of_a_charge_is_wrong_usage(charge: str) -> None:
    result = CliRunner().invoke(app, ["receipts", "verify", "receipt.json", "--charge", charge])
    assert result.exit_code == 2
    assert "an id is 0x and 64 hex digits" in result.output


def test_a_receipt_is_written_whole_and_for_its_payer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Actor, "connect", lambda _: nullcontext(None))
    monkeypatch.setattr(pending_receipts, "fetch_receipt", lambda *_: {"salt": "0x12"})
    monkeypatch.setattr(evidence, "fetch_evidence", lambda *_: {})
    out, earlier = tmp_path / "receipt.json", tmp_path / "earlier.json"
    out.write_text("an earlier receipt")
    earlier.hardlink_to(out)
    assert CliRunner().invoke(app, ["receipts", "show", "0x12", "--out", str(out)]).exit_code == 0
    assert json.loads(out.read_text()) == {"salt": "0x12", "evidence": {}}
    assert out.stat().st_mode & 0o777 == 0o600
    assert earlier.read_text() == "an earlier receipt", "it was replaced, not overwritten"
