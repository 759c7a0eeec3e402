from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from backend.db.tables.chain import DatanetRow
from backend.domain.chain import Reverted
from backend.domain.content import cid_digest
from backend.domain.errors import DiskFull, Unavailable
from backend.domain.ids import DatanetId
from backend.domain.registries import Datanet
from backend.services.market.datanet_folders import (
    ABANDONED_AFTER_SECONDS,
    LOCK,
    DatanetFolders,
)
from backend.services.market.registry import Registry
from backend.storage.embedded import EmbeddedStore
from tests.support.chain_view import FakeChainView
from tests.support.databases import CopiedViewDatabase
from tests.support.fakes import FakeClock
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Cid


class Harness:
    def __init__(self, folder: Path, database: Database) -> None:
        self.folder = folder
        self.clock = FakeClock(datetime.now(UTC))
        self.view = FakeChainView(self.clock)
        self.db: Any = CopiedViewDatabase(database, self.view)
        self.store = EmbeddedStore(folder / "ipfs", is_durable=False)
        self.folders = self.restarted()

    def restarted(self, reserved: int = 0) -> DatanetFolders:
        root = self.folder / "datanets"
        return DatanetFolders(self.db, self.store, root, reserved, lambda: self.clock().timestamp())

    def publish(self, text: str) -> Cid:
        files = {"README.md": text.encode()}
        self.folders.publish(files)
        return self.folders.cid(files)

    def create(self, folder: Cid) -> None:
        number = DatanetId(len(self.view.datanet_list) + 1)
        self.view.datanet_list.append(Datanet(number, some_account("creator"), "docs", cid_digest(folder), 0))

    def sweep(self, seconds: float = 60) -> None:
        self.clock.pass_seconds(seconds)
        self.folders.sweep()


@pytest.fixture
def harness(tmp_path: Path, sqlite_database: Database) -> Harness:
    return Harness(tmp_path, sqlite_database)


def test_a_folder_that_no_datanet_names_is_deleted_after_a_day(harness: Harness) -> None:
    abandoned, created = harness.publish("abandoned"), harness.publish("created")
    harness.create(created)
    harness.sweep(ABANDONED_AFTER_SECONDS - 120)
    assert set(harness.store.pins()) == {abandoned, created}
    harness.folders = harness.restarted()
    harness.sweep(240)
    assert harness.store.pins() == [created]
    assert [path.name for path in (harness.folder / "datanets").iterdir()] == [LOCK]
    assert harness.publish("created") == created
    harness.sweep(2 * ABANDONED_AFTER_SECONDS)
    assert harness.store.pins() == [created]


def test_a_folder_is_not_published_again_while_it_is_deleted(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, forget = harness.publish("text"), harness.store.forget
    refused: list[Unavailable] = []

    def publish_and_forget(*cids: Cid) -> None:
        with pytest.raises(Unavailable, match="try again") as caught:
            harness.publish("text")
        refused.append(caught.value)
        forget(*cids)

    monkeypatch.setattr(harness.store, "forget", publish_and_forget)
    harness.sweep(ABANDONED_AFTER_SECONDS + 60)
    assert len(refused) == 1
    assert harness.store.pins() == []
    assert harness.publish("text") == folder
    assert harness.store.pins() == [folder]


def test_the_chain_tells_which_folders_datanets_name(sqlite_database: Database) -> None:
    row = {"creator": some_account("creator"), "name": "docs", "block_number": 1, "log_index": 0}
    with sqlite_database.begin() as tx:
        tx.session.add(DatanetRow(id=1, cid_digest=some_hash("named"), **row))
        tx.session.add(DatanetRow(id=2, cid_digest=some_hash("other"), **row))
        found = tx.chain.datanet_folders([some_hash("named"), some_hash("unnamed")])
    assert found == {some_hash("named")}


def test_a_folder_stays_until_its_datanet_can_be_indexed(harness: Harness) -> None:
    created = harness.publish("created")
    harness.view.lag_seconds = 3600
    harness.sweep(ABANDONED_AFTER_SECONDS + 1800)
    harness.create(created)
    harness.view.lag_seconds = 0
    harness.sweep()
    assert harness.store.pins() == [created]


def test_nothing_is_published_into_the_reserve_of_the_disk(harness: Harness) -> None:
    harness.folders = harness.restarted(reserved=1 << 60)
    with pytest.raises(DiskFull):
        harness.publish("text")
    assert harness.store.pins() == []


def test_the_folder_of_a_datanet_that_the_registry_refuses_is_not_published(harness: Harness) -> None:
    class Refusing:
        def prepare(self, *_args: Any, **_options: Any) -> None:
            raise Reverted("refused")

    chain: Any = Refusing()
    registry = Registry(harness.db, chain, harness.folders)
    with pytest.raises(Reverted):
        registry.prepare_datanet(some_account("creator"), "docs", "text")
    assert harness.store.pins() == []
