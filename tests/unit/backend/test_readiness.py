"""What is said of parts that do not answer."""

from __future__ import annotations

import shutil
from collections import namedtuple
from typing import TYPE_CHECKING

from backend import readiness
from backend.bootstrap import Installation
from backend.readiness import faults
from backend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - as shutil's
INSIDE = ("sql", "select", "no such table", "operationalerror", "errno", "traceback", "chain_checkpoints")
"""Words of the database's, the system's and ours that mean nothing to whoever may ask."""


def test_every_part_that_does_not_answer_is_named_with_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = faults(Installation(Settings(home=tmp_path)))
    assert found.keys() == {"database", "chain", "indexer", "engine"}
    for part in readiness.PARTS:
        assert found.get(part.name, part.remedy).endswith(part.remedy)
    assert not [word for word in INSIDE for text in found.values() if word in text.lower()]
    assert "no such table" in caplog.text


def test_a_database_url_with_a_password_is_not_shown(tmp_path: Path) -> None:
    url = "postgresql://market:secret@127.0.0.1:1/market"
    found = faults(Installation(Settings(home=tmp_path, database_url=url)))
    assert found["database"].startswith("The database of this installation is not reachable.")
    assert "secret" not in str(found)


def test_a_disk_that_is_almost_full_is_named_before_anything_fails_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 40, 0, 10 << 20))
    assert "has 10 MB left" in faults(Installation(Settings(home=tmp_path)))["disk"]


def test_a_folder_that_is_gone_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    assert "cannot be looked at" in faults(Installation(Settings(home=tmp_path / "gone")))["disk"]
