from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from backend.cli.main import app
from backend.cli.operator import verification
from backend.domain.errors import InvalidInput, NotFound
from tests.support.market import some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database


@pytest.fixture(autouse=True)
def _in_an_empty_home(sqlite_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def opened() -> Iterator[Any]:
        yield SimpleNamespace(database=sqlite_database)

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
