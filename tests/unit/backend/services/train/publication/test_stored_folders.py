"""Folders of trained adapters in the block store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from backend.domain.content import ContentCorrupt
from backend.services.train.publication import READ_BACK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.backend.services.train.publication.support import PublicationHarness


def test_a_published_folder_comes_back_by_its_cid(harness: PublicationHarness, tmp_path: Path) -> None:
    cid = harness.publication.publish(harness.adapter)
    assert harness.store.has(cid)
    harness.store.fetch_folder(cid, tmp_path / "back")
    assert {p.name: p.read_bytes() for p in (tmp_path / "back").iterdir()} == {
        p.name: p.read_bytes() for p in harness.adapter.iterdir()
    }


def test_publishing_again_after_a_kill_gives_the_same_cid(harness: PublicationHarness) -> None:
    cid = harness.publication.publish(harness.adapter)
    (harness.adapter.parent / READ_BACK).mkdir()  # as a killed worker leaves it
    assert harness.publication.publish(harness.adapter) == cid == harness.publication.cid_of(harness.adapter)
    assert not (harness.adapter.parent / READ_BACK).exists()


def test_a_store_that_returns_other_bytes_is_found_out(
    harness: PublicationHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = harness.store.fetch_folder

    def tampered(cid: Any, destination: Path) -> None:
        real(cid, destination)
        (destination / "README.md").write_text("another")

    monkeypatch.setattr(harness.store, "fetch_folder", tampered)
    with pytest.raises(ContentCorrupt):
        harness.publication.publish(harness.adapter)
