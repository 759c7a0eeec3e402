"""Resumable uploads of files: acknowledged bytes survive crashes.

Each transfer has a folder with its bytes (`data`) and a record of how many of them are valid. A chunk is
synced and checked before the record counts it, and the record is synced before the chunk is acknowledged.
Bytes of `data` beyond the record belong to a failed attempt; the next one overwrites them. Writers hold an
flock on `data`, which ends with their process.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import time
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.disk.files import pieces, sync_folder, write_durably
from backend.disk.space import DiskSpace, raising_disk_full
from backend.domain.errors import Conflict, InvalidInput, NotFound
from backend.domain.streams import at_most
from backend.services.contribute.canonical_rows import UploadTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO
    from pathlib import Path

    from backend.domain.ids import Account

RETENTION_SECONDS = 86_400
"""Time after the last write at which an unfinished or unused transfer is deleted."""
MAX_TRANSFERS = 16
"""Concurrent transfers per account."""
SYNC_BYTES = 32 << 20
"""Bytes of a chunk without checksum after which the record is updated; the most that a crash loses."""
ALGORITHMS = ("sha256", "sha1")
"""Checksum algorithms. The tus protocol requires SHA-1; checksums only detect transmission errors."""
DISK_FULL = "the disk is full; acknowledged bytes are stored, resume later"


class OffsetMismatch(Conflict):
    """The chunk does not start at the transfer's offset, `details["offset"]`."""


class TransferBusy(Conflict):
    """Another request holds the transfer's lock; try again in a moment."""


class TransferUnfinished(Conflict):
    """The transfer is not complete."""


class TooManyTransfers(Conflict):
    """The account has the maximum number of transfers: finish or delete one."""


class ChecksumMismatch(InvalidInput):
    """The chunk does not have its checksum; nothing of it was stored."""


class DigestMismatch(InvalidInput):
    """The file does not have the announced digest: it changed during the upload. The transfer was deleted."""


@dataclass(frozen=True, slots=True)
class Transfer:
    id: str
    account: Account
    name: str
    num_bytes: int
    """Announced size of the file."""
    sha256: str | None
    """Announced digest of the file in lower-case hex, if any; checked when the file is used."""
    metadata: str
    """The client's metadata, unchanged."""
    changed_at: float
    offset: int = 0
    """Number of bytes stored durably."""

    @property
    def expires_at(self) -> datetime:
        return datetime.fromtimestamp(int(self.changed_at) + RETENTION_SECONDS, UTC)


@dataclass(frozen=True, slots=True)
class Checksum:
    """Checksum of one chunk."""

    algorithm: str
    digest: bytes

    def check(self, actual: bytes) -> None:
        if actual != self.digest:
            raise ChecksumMismatch(f"the chunk does not have the announced {self.algorithm}: send it again")


class Transfers:
    """Transfers of files of at most `max_bytes`, in folders below `root`. They leave `reserved` bytes of the
    disk free.
    """

    def __init__(
        self, root: Path, max_bytes: int, now: Callable[[], float] = time.time, reserved: int = 0
    ) -> None:
        self._root = root
        self._now = now
        self.max_bytes = max_bytes
        self.space = DiskSpace(root, reserved)

    def create(
        self, account: Account, num_bytes: int, name: str = "", sha256: str | None = None, metadata: str = ""
    ) -> Transfer:
        """Create an empty transfer. Errors: `UploadTooLarge`, `TooManyTransfers`, `DiskFull`."""
        if num_bytes > self.max_bytes:
            details = {"max_bytes": self.max_bytes}
            raise UploadTooLarge(f"the file has more than {self.max_bytes} bytes", details=details)
        if len(self.find(account)) >= MAX_TRANSFERS:
            raise TooManyTransfers(f"the account has {MAX_TRANSFERS} transfers: finish or delete one")
        transfer_id = f"transfer-{secrets.token_hex(16)}"
        transfer = Transfer(transfer_id, account, name, num_bytes, sha256, metadata, self._now())
        self.space.require(num_bytes)
        self._root.mkdir(parents=True, exist_ok=True)
        with raising_disk_full(DISK_FULL):
            (self._root / transfer_id).mkdir()
            (self._root / transfer_id / "data").touch()
            self._record(transfer)
            sync_folder(self._root)
        return transfer

    def get(self, account: Account, transfer_id: str) -> Transfer:
        """Errors: `NotFound`, also for transfers of other accounts."""
        transfer = self._read(transfer_id) if _is_id(transfer_id) else None
        if transfer is None or transfer.account != account:
            raise NotFound(f"no transfer {transfer_id[:64]}", "transfer")
        return transfer

    def find(self, account: Account) -> list[Transfer]:
        """The account's transfers, the last changed first."""
        transfers = [transfer for transfer in map(self._read, self._ids()) if transfer is not None]
        own = [transfer for transfer in transfers if transfer.account == account]
        return sorted(own, key=lambda transfer: transfer.changed_at, reverse=True)

    def append(
        self,
        account: Account,
        transfer_id: str,
        offset: int,
        stream: Iterable[bytes],
        checksum: Checksum | None = None,
    ) -> Transfer:
        """Append a chunk that starts at `offset`. With a checksum it is stored as a whole or not at all;
        without one, everything received is stored, even if the stream fails.

        Errors: `NotFound`, `TransferBusy`, `OffsetMismatch`, `UploadTooLarge`, `ChecksumMismatch`,
        `DiskFull`, and what `stream` raises.
        """
        self.get(account, transfer_id)
        with self._locked(transfer_id) as file:
            transfer = self.get(account, transfer_id)
            if offset != transfer.offset:
                details = {"offset": transfer.offset}
                raise OffsetMismatch(f"the offset is {transfer.offset}, not {offset}", "offset", details)
            file.truncate(offset)
            file.seek(offset)
            with raising_disk_full(DISK_FULL):
                return self._receive(file, transfer, stream, checksum)

    def content(self, account: Account, transfer_id: str) -> Iterator[bytes]:
        """The file's content. Errors: `NotFound`, `TransferUnfinished`; at the end `DigestMismatch`."""
        transfer = self.get(account, transfer_id)
        if transfer.offset < transfer.num_bytes:
            missing = transfer.num_bytes - transfer.offset
            raise TransferUnfinished(f"{missing} bytes are missing", "transfer")
        return self._content(transfer)

    def remove(self, account: Account, transfer_id: str) -> None:
        """Errors: `NotFound`, `TransferBusy`."""
        self.get(account, transfer_id)
        with self._locked(transfer_id):
            self._delete(transfer_id)

    def sweep(self) -> int:
        """Delete expired and incompletely created transfers; return their number."""
        return sum(map(self._delete_expired, self._ids()))

    def _receive(
        self, file: FileIO, transfer: Transfer, stream: Iterable[bytes], checksum: Checksum | None
    ) -> Transfer:
        hasher = None if checksum is None else hashlib.new(checksum.algorithm, usedforsecurity=False)
        written = transfer.offset
        too_large = UploadTooLarge("the chunk exceeds the announced size of the file")
        try:
            for chunk in at_most(transfer.num_bytes - written, self.space.limit(stream), too_large):
                _write(file, chunk)
                written += len(chunk)
                if hasher is not None:
                    hasher.update(chunk)
                elif written - transfer.offset >= SYNC_BYTES:
                    transfer = self._commit(file, transfer, written)
        except (OSError, UploadTooLarge):
            raise
        except BaseException:
            if hasher is None:
                self._commit(file, transfer, written)  # the client resumes from here
            raise
        if hasher is not None and checksum is not None:
            checksum.check(hasher.digest())
        return self._commit(file, transfer, written)

    def _commit(self, file: FileIO, transfer: Transfer, offset: int) -> Transfer:
        os.fsync(file.fileno())
        committed = replace(transfer, offset=offset, changed_at=self._now())
        self._record(committed)
        return committed

    def _content(self, transfer: Transfer) -> Iterator[bytes]:
        hasher = hashlib.sha256()
        for chunk in pieces(self._root / transfer.id / "data"):
            hasher.update(chunk)
            yield chunk
        if transfer.sha256 is not None and hasher.hexdigest() != transfer.sha256:
            self._delete(transfer.id)
            raise DigestMismatch("the file changed during the upload: send it again", "transfer")

    def _delete_expired(self, transfer_id: str) -> bool:
        transfer = self._read(transfer_id)
        try:
            changed_at = transfer.changed_at if transfer else (self._root / transfer_id).stat().st_mtime
            if changed_at + RETENTION_SECONDS > self._now():
                return False
            with nullcontext() if transfer is None else self._locked(transfer_id):
                self._delete(transfer_id)
        except (FileNotFoundError, NotFound, TransferBusy):
            return False
        return True

    def _ids(self) -> list[str]:
        return [folder.name for folder in self._root.glob("transfer-*")]

    def _read(self, transfer_id: str) -> Transfer | None:
        try:
            record = json.loads((self._root / transfer_id / "transfer.json").read_bytes())
            size = (self._root / transfer_id / "data").stat().st_size
            transfer = Transfer(**record)
        except (FileNotFoundError, ValueError, TypeError):
            return None
        # Smaller only if the disk lost synced bytes, which must then be sent again.
        return replace(transfer, offset=min(transfer.offset, size))

    def _record(self, transfer: Transfer) -> None:
        write_durably(self._root / transfer.id / "transfer.json", json.dumps(asdict(transfer)))

    @contextmanager
    def _locked(self, transfer_id: str) -> Iterator[FileIO]:
        try:
            file = (self._root / transfer_id / "data").open("r+b", buffering=0)
        except FileNotFoundError:
            raise NotFound(f"no transfer {transfer_id}", "transfer") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise TransferBusy("another request is writing to it", "transfer") from None
            yield file

    def _delete(self, transfer_id: str) -> None:
        (self._root / transfer_id / "transfer.json").unlink(
            missing_ok=True
        )  # without a record it is no transfer
        shutil.rmtree(self._root / transfer_id, ignore_errors=True)


def _is_id(text: str) -> bool:
    """Whether `text` is a transfer's id, and thus safe as a folder name."""
    kind, _, name = text.partition("-")
    return kind == "transfer" and len(name) == 32 and set(name) <= set("0123456789abcdef")


def _write(file: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]
