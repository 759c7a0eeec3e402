from __future__ import annotations

import hashlib
import itertools
import os
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import DiskFull, NotFound
from backend.services.contribute.canonical_rows import UploadTooLarge
from backend.services.contribute.transfers import (
    MAX_TRANSFERS,
    RETENTION_SECONDS,
    SYNC_BYTES,
    Checksum,
    ChecksumMismatch,
    DigestMismatch,
    OffsetMismatch,
    TooManyTransfers,
    TransferBusy,
    Transfers,
    TransferUnfinished,
)
from tests.support.market import some_account

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ALICE, BOB = some_account("alice"), some_account("bob")
TEXT = bytes(range(256)) * 4
DIGEST = hashlib.sha256(TEXT).hexdigest()


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def transfers(tmp_path: Path, clock: Clock) -> Transfers:
    return Transfers(tmp_path / "transfers", 1 << 30, clock)


def begun(transfers: Transfers, num_bytes: int = len(TEXT), sha256: str | None = DIGEST) -> str:
    return transfers.create(ALICE, num_bytes, "rows.jsonl", sha256).id


def checksum(piece: bytes, algorithm: str = "sha256") -> Checksum:
    return Checksum(algorithm, hashlib.new(algorithm, piece).digest())


def test_pieces_one_after_the_other_are_the_file(transfers: Transfers) -> None:
    transfer_id = begun(transfers)
    assert transfers.append(ALICE, transfer_id, 0, [TEXT[:100]], checksum(TEXT[:100])).offset == 100
    assert transfers.append(ALICE, transfer_id, 100, [TEXT[100:101], TEXT[101:300]]).offset == 300
    with pytest.raises(TransferUnfinished, match=f"{len(TEXT) - 300} bytes"):
        transfers.content(ALICE, transfer_id)
    transfers.append(ALICE, transfer_id, 300, [TEXT[300:]], checksum(TEXT[300:], "sha1"))
    assert b"".join(transfers.content(ALICE, transfer_id)) == TEXT


def test_a_piece_begins_where_the_transfer_ends(transfers: Transfers) -> None:
    transfer_id = begun(transfers)
    transfers.append(ALICE, transfer_id, 0, [TEXT[:100]])
    for offset in (0, 99, 101):
        with pytest.raises(OffsetMismatch) as caught:
            transfers.append(ALICE, transfer_id, offset, [b"x"])
        assert caught.value.details == {"offset": 100}


def test_of_a_piece_that_breaks_off_what_came_counts(transfers: Transfers) -> None:
    transfer_id = begun(transfers)

    class Gone(Exception):
        pass

    def leaving() -> Iterator[bytes]:
        yield TEXT[:10]
        yield TEXT[10:70]
        raise Gone

    with pytest.raises(Gone):
        transfers.append(ALICE, transfer_id, 0, leaving())
    assert transfers.get(ALICE, transfer_id).offset == 70
    with pytest.raises(Gone):
        transfers.append(ALICE, transfer_id, 70, leaving(), checksum(b"all of it"))
    assert transfers.get(ALICE, transfer_id).offset == 70, "with a checksum it is all or nothing"
    transfers.append(ALICE, transfer_id, 70, [TEXT[70:]])
    assert b"".join(transfers.content(ALICE, transfer_id)) == TEXT


def test_a_piece_with_another_checksum_leaves_nothing(transfers: Transfers) -> None:
    transfer_id = begun(transfers)
    transfers.append(ALICE, transfer_id, 0, [TEXT[:10]])
    with pytest.raises(ChecksumMismatch):
        transfers.append(ALICE, transfer_id, 10, [TEXT[10:]], checksum(b"other"))
    assert transfers.get(ALICE, transfer_id).offset == 10
    transfers.append(ALICE, transfer_id, 10, [TEXT[10:]], checksum(TEXT[10:]))
    assert b"".join(transfers.content(ALICE, transfer_id)) == TEXT


def test_a_file_that_changed_on_the_way_is_refused_and_goes(transfers: Transfers) -> None:
    transfer_id = begun(transfers)
    transfers.append(ALICE, transfer_id, 0, [TEXT[:500]])
    other = TEXT[500:].replace(b"a", b"b")
    transfers.append(ALICE, transfer_id, 500, [other], checksum(other))
    with pytest.raises(DigestMismatch, match="changed during the upload"):
        list(transfers.content(ALICE, transfer_id))
    assert transfers.find(ALICE) == []


def test_nothing_goes_behind_the_announced_length(transfers: Transfers) -> None:
    transfer_id = begun(transfers, 5, None)
    with pytest.raises(UploadTooLarge):
        transfers.append(ALICE, transfer_id, 0, [b"abc", b"def"])
    assert transfers.get(ALICE, transfer_id).offset == 0
    assert transfers.append(ALICE, transfer_id, 0, [b"abcde"]).offset == 5


def test_two_clients_do_not_write_to_one_transfer_at_once(transfers: Transfers) -> None:
    transfer_id = begun(transfers)

    def interrupted() -> Iterator[bytes]:
        yield TEXT[:10]
        with pytest.raises(TransferBusy):
            transfers.append(ALICE, transfer_id, 0, [b"theirs"])
        with pytest.raises(TransferBusy):
            transfers.remove(ALICE, transfer_id)
        yield TEXT[10:]

    transfers.append(ALICE, transfer_id, 0, interrupted(), checksum(TEXT))
    assert b"".join(transfers.content(ALICE, transfer_id)) == TEXT


def test_two_transfers_of_one_file_are_two(transfers: Transfers) -> None:
    first, second = begun(transfers), begun(transfers)
    transfers.append(ALICE, first, 0, [TEXT[:9]])
    transfers.append(ALICE, second, 0, [TEXT])
    transfers.append(ALICE, first, 9, [TEXT[9:]])
    assert [b"".join(transfers.content(ALICE, one)) for one in (first, second)] == [TEXT, TEXT]


def test_transfers_are_their_owners_alone(transfers: Transfers) -> None:
    transfer_id = begun(transfers)
    assert transfers.find(BOB) == []
    for touch in (transfers.get, transfers.content, transfers.remove):
        with pytest.raises(NotFound):
            touch(BOB, transfer_id)
    with pytest.raises(NotFound):
        transfers.append(BOB, transfer_id, 0, [b"x"])


@pytest.mark.parametrize("name", ["", ".", "..", "transfer-", f"transfer-{'g' * 32}", "transfer-../../etc"])
def test_a_name_that_is_none_of_ours_leads_nowhere(transfers: Transfers, name: str) -> None:
    with pytest.raises(NotFound):
        transfers.get(ALICE, name)


def test_an_account_has_so_many_and_of_such_a_size(transfers: Transfers) -> None:
    with pytest.raises(UploadTooLarge):
        transfers.create(ALICE, transfers.max_bytes + 1)
    for _ in range(MAX_TRANSFERS):
        last = begun(transfers)
    with pytest.raises(TooManyTransfers):
        begun(transfers)
    transfers.remove(ALICE, last)
    begun(transfers)


def test_an_abandoned_transfer_is_deleted_after_a_day(transfers: Transfers, clock: Clock) -> None:
    left, used = begun(transfers), begun(transfers)
    (transfers._root / f"transfer-{'0' * 32}").mkdir()  # died while it was made
    os.utime(transfers._root / f"transfer-{'0' * 32}", (clock.now, clock.now))
    clock.now += RETENTION_SECONDS - 1
    transfers.append(ALICE, used, 0, [TEXT[:1]])
    assert transfers.sweep() == 0
    clock.now += 2
    assert transfers.sweep() == 2
    assert [one.id for one in transfers.find(ALICE)] == [used]
    with pytest.raises(NotFound):
        transfers.get(ALICE, left)


def test_a_full_disk_is_named_and_what_was_acknowledged_stays(transfers: Transfers) -> None:
    transfer_id = begun(transfers)
    transfers.append(ALICE, transfer_id, 0, [TEXT[:600]])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (800, hard))
    try:
        with pytest.raises(DiskFull, match="resume later"):
            transfers.append(ALICE, transfer_id, 600, [TEXT[600:700], TEXT[700:]])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert transfers.get(ALICE, transfer_id).offset == 600
    transfers.append(ALICE, transfer_id, 600, [TEXT[600:]])
    assert b"".join(transfers.content(ALICE, transfer_id)) == TEXT


def test_a_file_that_cannot_fit_is_refused_before_it_is_sent(
    transfers: Transfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(DiskFull):
        transfers.create(ALICE, 10)
    assert transfers.find(ALICE) == []


def test_a_long_piece_without_a_checksum_counts_on_its_way(transfers: Transfers) -> None:
    chunk = bytes(1 << 20)
    num_chunks = (SYNC_BYTES >> 20) + 1
    transfer_id = begun(transfers, num_chunks << 20, None)

    def watched() -> Iterator[bytes]:
        yield from itertools.repeat(chunk, num_chunks - 1)
        assert transfers.get(ALICE, transfer_id).offset == SYNC_BYTES
        yield chunk

    transfers.append(ALICE, transfer_id, 0, watched())


DIES = """
import os, signal, sys
from pathlib import Path
from backend.services.contribute.transfers import Transfers
root, transfer_id, account, calls = Path(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
def dying(function):
    def call(*arguments):
        global calls
        calls -= 1
        if not calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments)
    return call
os.fsync = dying(os.fsync)
Path.replace = dying(Path.replace)
transfers = Transfers(root, 1 << 30)
text = bytes(range(256)) * 4
while (offset := transfers.get(account, transfer_id).offset) < len(text):
    piece = text[offset : offset + 300]
    acknowledged = transfers.append(account, transfer_id, offset, [piece[:200], piece[200:]]).offset
    print(acknowledged, flush=True)
"""


@pytest.mark.parametrize("calls", [1, 2, 3, 4, 6])
def test_a_server_that_is_killed_loses_nothing_that_it_acknowledged(transfers: Transfers, calls: int) -> None:
    """Before each sync and rename in turn, and between two pieces."""
    transfer_id = begun(transfers)
    command = [sys.executable, "-c", DIES, str(transfers._root), transfer_id, ALICE, str(calls)]
    died = subprocess.run(command, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    acknowledged = int((died.stdout.split() or ["0"])[-1])
    offset = transfers.get(ALICE, transfer_id).offset
    assert offset >= acknowledged
    assert (transfers._root / transfer_id / "data").read_bytes()[:offset] == TEXT[:offset]
    transfers.append(ALICE, transfer_id, offset, [TEXT[offset:]])
    assert b"".join(transfers.content(ALICE, transfer_id)) == TEXT


def test_bytes_that_the_disk_lost_have_to_come_again(transfers: Transfers) -> None:
    transfer_id = begun(transfers)
    transfers.append(ALICE, transfer_id, 0, [TEXT[:900]])
    os.truncate(transfers._root / transfer_id / "data", 400)
    assert transfers.get(ALICE, transfer_id).offset == 400
    transfers.append(ALICE, transfer_id, 400, [TEXT[400:]])
    assert b"".join(transfers.content(ALICE, transfer_id)) == TEXT
