"""Block store on a Kubo daemon or another server of its RPC, whose blocks are verified."""

from __future__ import annotations

import tempfile
import time
import warnings
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

from backend.domain.content import Codec, ContentCorrupt, ContentMissing, DecodedCid, decode_cid
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.ids import Cid
from backend.storage.car import car_header, car_section, spooled_tree
from backend.storage.folders import FolderStore
from backend.storage.reader import TreeReader
from backend.storage.unixfs import Tree, import_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

DEFAULT_TIMEOUT_SECONDS = 60
READ_SECONDS = 150.0
MIN_READ_RATE = 1 << 20
"""Bytes per second. A folder cannot be read if an operation waits for its blocks for longer than
`READ_SECONDS` and this rate allow: a peer may send each block just in time, and nothing may wait for it for
days. The daemon keeps the blocks that came, so that a later operation gets further.
"""
GARBAGE_TIMEOUT_SECONDS = 3600
"""Time that a daemon may take to look at all its blocks."""


class KuboStore(FolderStore):
    """Implements `backend.ports.storage.BlobStore` on the RPC at `address` (URL or multiaddr).

    Folders are uploaded as a CAR made here, so their CIDs do not depend on the daemon's importer. Blocks are
    downloaded one by one and hashed, so the daemon's answers need no trust. A block that does not
    come within `timeout_seconds` is `ContentMissing`: the daemon cannot distinguish missing from slow. So is
    one of an operation that has waited for too long (`READ_SECONDS`).
    """

    def __init__(
        self, address: str, garbage: Path, scratch: Path, *, timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    ) -> None:
        """`garbage`: a file that is there while forgotten folders are to be deleted. `scratch`: folder for
        the CARs of additions.
        """
        import ipfshttpclient

        # The client passes urllib3 an argument that 2.x deprecates; hence `urllib3<3` in pyproject.toml.
        warnings.filterwarnings("ignore", "The 'strict' parameter", FutureWarning)
        # Not `connect`: it checks the version and warns about current daemons. The calls here are stable.
        multiaddr = to_multiaddr(address)
        self._client: Any = ipfshttpclient.Client(multiaddr, session=True, timeout=timeout_seconds)
        self._garbage, self._scratch, self._timeout = garbage, scratch, timeout_seconds
        super().__init__(lambda cid: _Reading(self).fetch(cid))

    def has(self, cid: Cid) -> bool:
        try:
            with self._errors():
                self._client.pin.ls(str(decode_cid(cid)), type="recursive")
        except ContentMissing:
            return False
        return True

    def unpin(self, cid: Cid) -> None:
        try:
            with self._errors():
                self._client.pin.rm(str(decode_cid(cid)))
        except ContentMissing:
            return

    def forget(self, *cids: Cid) -> None:
        self._mark_garbage()  # first: a crash leaves nothing that is never deleted
        try:
            for cid in cids:
                self.unpin(cid)
        finally:
            self._mark_garbage()  # again: a collection that began before the unpinning deletes the first mark

    def delete_forgotten(self) -> None:
        try:
            seen = self._garbage.read_text()
        except FileNotFoundError:
            return
        with self._errors():
            for _ in self._client.repo.gc(stream=True, timeout=GARBAGE_TIMEOUT_SECONDS):
                pass
        with suppress(FileNotFoundError):  # another process has collected too
            if self._garbage.read_text() == seen:  # no folder was forgotten during the collection
                self._garbage.unlink()

    def add_car(self, cid: Cid, car: Iterable[bytes]) -> None:
        root = decode_cid(cid)
        with spooled_tree(root, car, self._scratch) as file:
            self._import(root, file)

    def close(self) -> None:
        self._client.close()

    def _mark_garbage(self) -> None:
        """Each mark differs from all others, as times of files do not."""
        self._garbage.write_text(uuid4().hex)

    def _add(self, tree: Tree) -> Cid:
        with tempfile.TemporaryFile(dir=self._scratch) as car:
            root = _write_car(tree, car)
            self._import(root, car)
        return Cid(str(root))

    def _import(self, root: DecodedCid, car: BinaryIO) -> None:
        with self._errors():
            answer = self._client.dag.imprt(_Upload(car))["Root"]
        if answer["Cid"]["/"] != str(root) or answer.as_json().get("PinErrorMsg"):
            raise ContentCorrupt(f"the daemon did not pin {root}", details={"answer": answer.as_json()})

    def get(self, cid: DecodedCid, seconds: float) -> bytes:
        """A block, not hashed yet. A daemon searches for one that it lacks until the request times out.

        Errors: `ContentMissing`, `Unavailable`.
        """
        from ipfshttpclient import exceptions

        with self._errors():
            try:
                block: bytes = self._client.block.get(str(cid), timeout=min(seconds, self._timeout))
            except exceptions.TimeoutError as error:
                raise ContentMissing(f"IPFS does not find {cid} in time") from error
        return block

    def _reader_of(self, _cid: Cid) -> TreeReader:
        return TreeReader(_Reading(self).fetch)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from ipfshttpclient import exceptions
        from requests import RequestException

        try:
            yield
        except exceptions.ErrorResponse as error:
            message = str(error)
            if any(sign in message for sign in ("not pinned", "could not find", "not found")):
                raise ContentMissing(f"IPFS: {message}") from error
            raise Unavailable(f"IPFS refused: {message}") from error
        except (exceptions.Error, RequestException) as error:  # the latter while a body is read
            raise Unavailable(f"IPFS is not reachable: {error}") from error


def to_multiaddr(address: str) -> str:
    """Convert `http://host:port` to a multiaddr; return a multiaddr unchanged. Errors: `InvalidInput`."""
    if address.startswith("/"):
        return address
    url = urlsplit(address)
    if url.scheme not in {"http", "https"} or not url.hostname or url.path.strip("/"):
        raise InvalidInput(f"{address!r} is neither http(s)://host:port nor a multiaddr", "ipfs_api")
    port = url.port or (443 if url.scheme == "https" else 80)
    kind = "ip6" if ":" in url.hostname else "ip4" if url.hostname.replace(".", "").isdigit() else "dns"
    return f"/{kind}/{url.hostname}/tcp/{port}/{url.scheme}"


class _Reading:
    """The blocks of one operation, and how long it has waited for them."""

    def __init__(self, store: KuboStore) -> None:
        self._store = store
        self._waited_seconds, self._num_bytes = 0.0, 0

    def fetch(self, cid: DecodedCid) -> bytes:
        left = READ_SECONDS + self._num_bytes / MIN_READ_RATE - self._waited_seconds
        if left <= 0:
            raise ContentMissing(f"IPFS is too slow: {self._num_bytes} bytes in {self._waited_seconds:.0f} s")
        began = time.monotonic()
        try:
            block = self._store.get(cid, left)
        finally:
            self._waited_seconds += time.monotonic() - began
        self._num_bytes += len(block)
        return block


class _Upload:
    """A file without its name: the client would send the local path."""

    def __init__(self, file: BinaryIO) -> None:
        self.read = file.read


def _write_car(tree: Tree, file: BinaryIO) -> DecodedCid:
    """Write a CAR. It starts with the root, which the importer yields last: a placeholder is overwritten."""
    placeholder = car_header(DecodedCid(Codec.DAG_PB, bytes(32)))
    file.write(placeholder)
    root = import_tree(tree, lambda cid, block: file.write(car_section(cid, block))).cid
    file.seek(0)
    file.write(car_header(root))
    file.seek(0)
    return root
