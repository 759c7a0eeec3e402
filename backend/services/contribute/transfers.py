"""Files on their way in, a piece at a time: what was acknowledged stays, whatever dies.

Each has a folder with its bytes (`data`) and a record that says how many of them count. A piece is on disk
and checked before the record counts it, and the record is on disk before anybody hears of it. What stands in
`data` behind that number is of an attempt that died, and the next one overwrites it. Whoever writes holds the
kernel's lock on `data`, which ends with its process.
"""

from __future__ import annotations

import errno
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

from backend.domain.errors import Conflict, DiskFull, InvalidInput, NotFound
from backend.services.contribute.receive import UploadTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO
    from pathlib import Path

    from backend.domain.ids import Account

KEPT_SECONDS = 86_400
"""After its last byte, an unfinished or unused transfer goes."""
MAX_TRANSFERS = 16
"""Of one account at a time."""
SYNC_BYTES = 32 << 20
"""A piece without a checksum counts up to here at once: so much may be lost of it when the server dies."""
READ_BYTES = 1 << 16
ALGORITHMS = ("sha256", "sha1")
"""Of checksums. The protocol asks for SHA-1, which is no protection, and none is asked of it here."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class OffsetMismatch(Conflict):
    """The piece does not begin where the transfer ends; `details["offset"]` says where that is."""


class TransferBusy(Conflict):
    """Another request is writing to it, or was until its connection broke; try again in a moment."""


class TransferUnfinished(Conflict):
    """Bytes of it are still to come."""


class TooManyTransfers(Conflict):
    """As many as an account may have under way: finish or delete one."""


class ChecksumMismatch(InvalidInput):
    """The piece is not the one that its checksum is of; nothing of it was kept."""


class DigestMismatch(InvalidInput):
    """The whole is not what was announced: the file changed while it was sent. The transfer is gone."""


@dataclass(frozen=True, slots=True)
class Transfer:
    id: str
    account: Account
    name: str
    num_bytes: int
    """Of the whole file, as announced."""
    sha256: str | None
    """Of the whole file in lower-case hex, if it was announced; checked when the file is used."""
    metadata: str
    """What the client said of it, as it said it."""
    changed_at: float
    offset: int = 0
    """Bytes that have come, and stay."""

    @property
    def expires_at(self) -> datetime:
        return datetime.fromtimestamp(int(self.changed_at) + KEPT_SECONDS, UTC)


@dataclass(frozen=True, slots=True)
class Checksum:
    """Of one piece."""

    algorithm: str
    digest: bytes

    def check(self, found: bytes) -> None:
        if found != self.digest:
            raise ChecksumMismatch(f"the piece has another {self.algorithm} than announced: send it again")


class Transfers:
    """In folders below `root`; files of at most `max_bytes`."""

    def __init__(self, root: Path, max_bytes: int, now: Callable[[], float] = time.time) -> None:
        self._root = root
        self._now = now
        self.max_bytes = max_bytes

    def create(
        self, account: Account, num_bytes: int, name: str = "", sha256: str | None = None, metadata: str = ""
    ) -> Transfer:
        """An empty one. Errors: `UploadTooLarge`, `TooManyTransfers`, `DiskFull`."""
        if num_bytes > self.max_bytes:
            details = {"max_bytes": self.max_bytes}
            raise UploadTooLarge(f"the file has more than {self.max_bytes} bytes", details=details)
        if len(self.find(account)) >= MAX_TRANSFERS:
            raise TooManyTransfers(f"{MAX_TRANSFERS} transfers are under way: finish or delete one")
        transfer_id = f"transfer-{secrets.token_hex(16)}"
        transfer = Transfer(transfer_id, account, name, num_bytes, sha256, metadata, self._now())
        self._root.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(self._root).free < num_bytes:
            raise DiskFull("there is less room left here than the file needs")
        with _names_a_full_disk():
            (self._root / transfer_id).mkdir()
            (self._root / transfer_id / "data").touch()
            self._record(transfer)
            _sync(self._root)
        return transfer

    def get(self, account: Account, transfer_id: str) -> Transfer:
        """Errors: `NotFound`, also for somebody else's."""
        transfer = self._read(transfer_id) if _is_id(transfer_id) else None
        if transfer is None or transfer.account != account:
            raise NotFound(f"no transfer {transfer_id[:64]}", "transfer")
        return transfer

    def find(self, account: Account) -> list[Transfer]:
        """The account's, the one that changed last first."""
        found = [transfer for transfer in map(self._read, self._ids()) if transfer is not None]
        own = [transfer for transfer in found if transfer.account == account]
        return sorted(own, key=lambda transfer: transfer.changed_at, reverse=True)

    def append(
        self,
        account: Account,
        transfer_id: str,
        offset: int,
        stream: Iterable[bytes],
        checksum: Checksum | None = None,
    ) -> Transfer:
        """Takes a piece that begins at `offset`. With a checksum all of it or nothing; without one, as much
        as came, also when the stream breaks off.

        Errors: `NotFound`, `TransferBusy`, `OffsetMismatch`, `UploadTooLarge`, `ChecksumMismatch`,
        `DiskFull`, and what the stream raises.
        """
        self.get(account, transfer_id)
        with self._locked(transfer_id) as file:
            transfer = self.get(account, transfer_id)
            if offset != transfer.offset:
                here = {"offset": transfer.offset}
                raise OffsetMismatch(f"it ends at {transfer.offset}, not at {offset}", "offset", here)
            file.truncate(offset)
            file.seek(offset)
            with _names_a_full_disk():
                return self._receive(file, transfer, stream, checksum)

    def content(self, account: Account, transfer_id: str) -> Iterator[bytes]:
        """All of a finished one. Errors: `NotFound`, `TransferUnfinished`; at the end `DigestMismatch`."""
        transfer = self.get(account, transfer_id)
        if transfer.offset < transfer.num_bytes:
            missing = transfer.num_bytes - transfer.offset
            raise TransferUnfinished(f"{missing} bytes are still to come", "transfer")
        return self._content(transfer)

    def remove(self, account: Account, transfer_id: str) -> None:
        """Errors: `NotFound`, `TransferBusy`."""
        self.get(account, transfer_id)
        with self._locked(transfer_id):
            self._drop(transfer_id)

    def sweep(self) -> int:
        """Drop what expired, and what died while it was made. Number of transfers dropped."""
        return sum(map(self._swept, self._ids()))

    def _receive(
        self, file: FileIO, transfer: Transfer, stream: Iterable[bytes], checksum: Checksum | None
    ) -> Transfer:
        hasher = None if checksum is None else hashlib.new(checksum.algorithm, usedforsecurity=False)
        written = transfer.offset
        try:
            for chunk in _within(stream, transfer.num_bytes - written):
                _write(file, chunk)
                written += len(chunk)
                if hasher is not None:
                    hasher.update(chunk)
                elif written - transfer.offset >= SYNC_BYTES:
                    transfer = self._count(file, transfer, written)
        except (OSError, UploadTooLarge):
            raise
        except BaseException:
            if hasher is None:
                self._count(file, transfer, written)  # the client comes back for the rest
            raise
        if hasher is not None and checksum is not None:
            checksum.check(hasher.digest())
        return self._count(file, transfer, written)

    def _count(self, file: FileIO, transfer: Transfer, offset: int) -> Transfer:
        os.fsync(file.fileno())
        counted = replace(transfer, offset=offset, changed_at=self._now())
        self._record(counted)
        return counted

    def _content(self, transfer: Transfer) -> Iterator[bytes]:
        hasher = hashlib.sha256()
        with (self._root / transfer.id / "data").open("rb") as file:
            while chunk := file.read(READ_BYTES):
                hasher.update(chunk)
                yield chunk
        if transfer.sha256 is not None and hasher.hexdigest() != transfer.sha256:
            self._drop(transfer.id)
            raise DigestMismatch("the file changed while it was sent: send it again", "transfer")

    def _swept(self, transfer_id: str) -> bool:
        transfer = self._read(transfer_id)
        try:
            changed_at = transfer.changed_at if transfer else (self._root / transfer_id).stat().st_mtime
            if changed_at + KEPT_SECONDS > self._now():
                return False
            with nullcontext() if transfer is None else self._locked(transfer_id):
                self._drop(transfer_id)
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
        # Fewer only where the disk lost what it said was there: then these have to come again.
        return replace(transfer, offset=min(transfer.offset, size))

    def _record(self, transfer: Transfer) -> None:
        folder = self._root / transfer.id
        draft = folder / "transfer.tmp"
        with draft.open("w", encoding="utf-8") as file:
            json.dump(asdict(transfer), file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(folder / "transfer.json")
        _sync(folder)

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

    def _drop(self, transfer_id: str) -> None:
        (self._root / transfer_id / "transfer.json").unlink(missing_ok=True)  # from here on it is none
        shutil.rmtree(self._root / transfer_id, ignore_errors=True)


def _is_id(text: str) -> bool:
    """Whether it names a folder of ours and nothing else."""
    kind, _, name = text.partition("-")
    return kind == "transfer" and len(name) == 32 and set(name) <= set("0123456789abcdef")


def _within(stream: Iterable[bytes], room: int) -> Iterator[bytes]:
    for chunk in stream:
        room -= len(chunk)
        if room < 0:
            raise UploadTooLarge("the piece goes on behind the length that was announced")
        yield chunk


def _write(file: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _names_a_full_disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise DiskFull("there is no room left here; what was acknowledged is kept, go on later") from error
