"""Uploads leave space to the rest of the installation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from backend.disk.space import DiskSpace
from backend.domain.contribution import UploadState
from backend.domain.errors import DiskFull
from backend.services.contribute.transfers import Transfers
from tests.support.contributions import ALICE, ROWS, ContributionHarness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database

RESERVED = 1000


class Disk:
    def __init__(self) -> None:
        self.free = 10**9

    def write(self, num_bytes: int) -> bytes:
        self.free -= num_bytes
        return bytes(num_bytes)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=disk.free))
    return disk


@pytest.fixture
def harness(database: Database, tmp_path: Path) -> ContributionHarness:
    harness = ContributionHarness(database, tmp_path)
    harness.staging.space = DiskSpace(tmp_path, RESERVED)
    return harness


def test_all_but_the_reserve_is_for_uploads(disk: Disk, tmp_path: Path) -> None:
    space = DiskSpace(tmp_path / "not there yet" / "uploads", RESERVED)
    disk.free = RESERVED + 10
    space.require(10)
    with pytest.raises(DiskFull):
        space.require(11)


def test_a_stream_that_is_copied_needs_twice_the_space(disk: Disk, tmp_path: Path) -> None:
    space = DiskSpace(tmp_path, RESERVED)
    for is_copied, num_accepted in ((False, 10), (True, 5)):
        disk.free = RESERVED + 100
        stream = space.limit((bytes(10) for _ in range(11)), is_copied=is_copied)
        for _ in range(num_accepted):
            disk.free -= len(next(stream))
        with pytest.raises(DiskFull):
            next(stream)


def test_an_upload_ends_where_the_reserve_begins_and_leaves_nothing(
    harness: ContributionHarness, disk: Disk
) -> None:
    row = b'{"text": "%d %s"}\n'

    def stream() -> Iterator[bytes]:
        for number in range(1000):
            disk.free -= 10**6
            yield row % (number, b"word " * 20)

    disk.free = RESERVED + 500 * 10**6
    with pytest.raises(DiskFull, match="operator must free space"):
        harness.upload(stream())
    assert disk.free > 0
    assert harness.contributions.find() == []
    assert list((harness.folder / "uploads").iterdir()) == []


def test_a_file_that_expands_is_limited_by_what_it_expands_to(
    harness: ContributionHarness, disk: Disk
) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": [f"row {number} of many" for number in range(20)]}), sink)

    def stream() -> Iterator[bytes]:
        yield sink.getvalue().to_pybytes()
        disk.free = RESERVED - 1  # all of the file was received

    with pytest.raises(DiskFull):
        harness.upload(stream())
    assert harness.contributions.find() == []


def test_a_draft_waits_for_space_to_be_published(harness: ContributionHarness, disk: Disk) -> None:
    upload = harness.upload(ROWS)
    signature = harness.sign(upload)
    disk.free = RESERVED
    with pytest.raises(DiskFull):
        harness.contributions.submit(upload.id, signature)
    disk.free = 10**9
    assert harness.contributions.submit(upload.id, signature).state is UploadState.SUBMITTED


def test_a_transfer_keeps_what_it_received_before_the_disk_filled_up(disk: Disk, tmp_path: Path) -> None:
    transfers = Transfers(tmp_path / "transfers", 10**6, reserved=RESERVED)
    disk.free = RESERVED + 400
    with pytest.raises(DiskFull):
        transfers.create(ALICE.account, 401)
    begun = transfers.create(ALICE.account, 400)

    disk.free -= 200  # another upload
    with pytest.raises(DiskFull):
        transfers.append(ALICE.account, begun.id, 0, (disk.write(100) for _ in range(4)))
    assert 0 < transfers.get(ALICE.account, begun.id).offset < 400
    disk.free = 10**9
    offset = transfers.get(ALICE.account, begun.id).offset
    done = transfers.append(ALICE.account, begun.id, offset, [bytes(400 - offset)])
    assert done.offset == done.num_bytes
