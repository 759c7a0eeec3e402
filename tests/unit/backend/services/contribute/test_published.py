"""What pages read of a datanet and of its contributions: bounded, and without trust."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from backend.domain.content import cid_digest
from backend.domain.ids import ZERO_HASH, DatanetId
from backend.domain.registries import Contribution, Datanet
from backend.services.contribute import published
from backend.services.contribute.published import Terms, read_rows, read_terms
from backend.services.contribute.terms import TERMS_FILE, terms_file
from backend.storage.embedded import EmbeddedStore
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Cid


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path, is_durable=False)


def datanet(cid: Cid) -> Datanet:
    return Datanet(DatanetId(1), some_account("creator"), "docs", cid_digest(cid), 0)


def test_terms_are_read_where_the_folder_is_stored(store: EmbeddedStore) -> None:
    folder = store.add_folder({"README.md": b"# Docs\n\xff", TERMS_FILE: terms_file("MIT")})
    assert read_terms(store, datanet(folder)) == Terms("# Docs\n\ufffd", "MIT")
    large = store.add_folder({"README.md": b"x" * (published.MAX_DESCRIPTION_BYTES + 1)})
    assert read_terms(store, datanet(large)) == Terms("", None)
    assert read_terms(store, replace(datanet(folder), cid_digest=some_hash("elsewhere"))) is None


def test_rows_are_read_within_bounds(store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = store.add_folder({"data.jsonl": b"a\nb\xff\n" + b"c" * 9 + b"\nd\n"})
    owner, digest = some_account("contributor"), cid_digest(folder)
    rows = Contribution(DatanetId(1), 0, owner, some_hash("rows"), digest, ZERO_HASH, 4, None, 0, 1, 1)
    assert read_rows(store, rows, 0, 10) == ["a", "b\ufffd", "c" * 9, "d"]
    assert read_rows(store, rows, 1, 2) == ["b\ufffd", "c" * 9]
    assert read_rows(store, rows, 4, 2) == []
    monkeypatch.setattr(published, "SHOWN_BYTES", 3)
    assert read_rows(store, rows, 2, 1) == ["ccc"]
    monkeypatch.setattr(published, "READ_BYTES", 4)
    assert read_rows(store, rows, 0, 10) == ["a", "b\ufffd"]
