"""Which rows a contributor signs, whatever the market says of the file."""

from __future__ import annotations

import json
from hashlib import sha256
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from backend.client.comparison import SignatureRefused
from backend.client.contributions import CanonicalFile, rows_to_sign
from backend.client.errors import NotAMarket
from backend.domain.hashing import to_hash

if TYPE_CHECKING:
    from pathlib import Path

FIRST, SECOND = b'{"text":"a row"}', b'{"text":"another row"}'


def rows_of(*rows: bytes) -> CanonicalFile:
    return CanonicalFile(to_hash(sha256(b"".join(row + b"\n" for row in rows)).digest()), len(rows))


def signed(
    path: Path,
    lines: list[bytes],
    defects: list[Any],
    *,
    num: int | None = None,
    partial: bool = True,
) -> CanonicalFile | None:
    """What is signed of the lines if the market leaves out those of its `defects`."""
    path.write_bytes(b"\n".join(lines))
    listed = b"".join(json.dumps(defect).encode() + b"\n" for defect in defects)
    client: Any = SimpleNamespace(send=lambda *_: SimpleNamespace(content=listed))
    found = len(defects) if num is None else num
    report = {"num_left_out": found, "num_defects": found}
    return rows_to_sign(client, {"id": "1", "report": report}, path, accepts_partial=partial)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_of_a_partial_contribution_the_rows_without_defects_are_signed(path: Path) -> None:
    broken = [{"line": 2, "code": "malformed_json"}]
    assert signed(path, [FIRST, b"nope", SECOND], broken) == rows_of(FIRST, SECOND)
    copied = [*broken, {"line": 3, "code": "copied_row"}]
    assert signed(path, [FIRST, b"nope", SECOND], copied) == rows_of(FIRST)
    assert signed(path, [FIRST, SECOND], []) == rows_of(FIRST, SECOND)


@pytest.mark.parametrize("partial", [True, False])
def test_a_line_with_a_defect_that_the_market_accepts_is_not_signed(path: Path, *, partial: bool) -> None:
    with pytest.raises(
        SignatureRefused,
        match=r"line 2 of \S+ has a defect that the market does not find .*nothing was signed",
    ):
        signed(path, [FIRST, b"nope", SECOND], [], partial=partial)


def test_nothing_is_left_out_without_consent(path: Path) -> None:
    assert signed(path, [FIRST, SECOND], [{"line": 2}], partial=False) == rows_of(FIRST, SECOND)


def test_the_market_alone_reads_parquet_and_files_with_more_defects_than_it_lists(path: Path) -> None:
    assert signed(path, [b"PAR1", FIRST], []) is None
    assert signed(path, [FIRST, b"nope"], [{"line": 2}], num=10_001) is None


@pytest.mark.parametrize("defect", [{}, 7, {"line": "x"}])
def test_a_list_of_defects_of_another_form_is_refused(path: Path, defect: Any) -> None:
    with pytest.raises(NotAMarket, match="nothing was signed"):
        signed(path, [FIRST, SECOND], [defect])
