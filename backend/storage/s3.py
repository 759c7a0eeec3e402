"""Block store in a bucket of an S3-compatible service: one object for each folder."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from backend.domain.content import ContentCorrupt, ContentMissing, DecodedCid, decode_cid
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.ids import Cid
from backend.storage.car import MAX_SECTION_BYTES, car_header, car_section, read_tree
from backend.storage.car_index import read_header, read_index, write_indexed
from backend.storage.dagpb import read_varint
from backend.storage.folders import FolderStore
from backend.storage.reader import TreeReader
from backend.storage.unixfs import Tree, import_tree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

WINDOW_BYTES = 4 << 20
"""Read with one request: blocks follow each other in the order in which a folder is read."""
MAX_INDEX_BYTES = 16 << 20
"""Of 400,000 blocks, or 100 GB in blocks of 256 KiB. The bucket is untrusted: no more of an index is read."""


class S3Store(FolderStore):
    """Implements `backend.ports.storage.BlobStore` in the bucket and prefix of `url` (`s3://bucket/prefix`).

    A folder is one object, `<prefix>/<cid>.car`: a CARv2 with the folder's blocks depth first and an index of
    them. An object appears and disappears as a whole, so processes need no locks, and a folder is pinned
    exactly while its object exists. Folders share no blocks, and an inner block is found by its folder only.
    What the bucket returns is hashed, so it needs no trust. Region, endpoint and credentials are found as by
    every AWS client.
    """

    def __init__(self, url: str, scratch: Path) -> None:
        """`scratch`: folder for what is uploaded."""
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        self._bucket, self._prefix = parse_url(url)
        self._scratch = scratch
        # Servers other than AWS's may not know the checksums that the client adds by default.
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
        try:
            self._client: Any = boto3.client("s3", config=config)
        except (BotoCoreError, ValueError) as error:
            raise InvalidInput(f"LORALEDGER_S3_URL: no client for {url}: {error}", "s3_url") from error
        super().__init__(lambda cid: _Folder(self, cid).fetch(cid))

    def has(self, cid: Cid) -> bool:
        try:
            self.get(
                decode_cid(cid), 0, 1
            )  # a HEAD has no body to tell a missing bucket from a missing object
        except ContentMissing:
            return False
        return True

    def unpin(self, cid: Cid) -> None:
        with self._errors(cid):
            self._client.delete_object(Bucket=self._bucket, Key=self._key(decode_cid(cid)))

    def forget(self, *cids: Cid) -> None:
        for cid in cids:
            self.unpin(cid)

    def add_car(self, cid: Cid, car: Iterable[bytes]) -> None:
        root = decode_cid(cid)
        with _Blocks(self._scratch) as blocks:
            for below, block in read_tree(root, car):
                blocks.put(below, block)
            self._upload(root, blocks)

    def get(self, cid: DecodedCid, start: int, end: int) -> bytes:
        """Bytes of the folder's object from `start` to before `end`, or to the object's end."""
        request = {"Bucket": self._bucket, "Key": self._key(cid), "Range": f"bytes={start}-{end - 1}"}
        with self._errors(str(cid)):
            body = self._client.get_object(**request)["Body"]
            content: bytes = body.read(end - start)  # a server may ignore the range
            body.close()
        return content

    def close(self) -> None:
        self._client.close()

    def _add(self, tree: Tree) -> Cid:
        with _Blocks(self._scratch) as blocks:
            root = import_tree(tree, blocks.put).cid
            self._upload(root, blocks)
        return Cid(str(root))

    def _reader_of(self, cid: Cid) -> TreeReader:
        return TreeReader(_Folder(self, decode_cid(cid)).fetch)

    def _upload(self, root: DecodedCid, blocks: _Blocks) -> None:
        def sections() -> Iterator[tuple[DecodedCid | None, bytes]]:
            yield None, car_header(root)
            for cid, block in TreeReader(blocks.get).blocks(root):
                yield cid, car_section(cid, block)

        with tempfile.TemporaryFile(dir=self._scratch) as file, self._errors(str(root)):
            write_indexed(sections(), file)
            self._client.upload_fileobj(file, self._bucket, self._key(root))

    def _key(self, cid: DecodedCid) -> str:
        return f"{self._prefix}{cid}.car"

    @contextmanager
    def _errors(self, cid: str) -> Iterator[None]:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") in {"404", "NoSuchKey"}:
                raise ContentMissing(f"block {cid} was not found", "cid", {"cid": cid}) from error
            raise Unavailable(f"the bucket {self._bucket}: {error}") from error
        except (BotoCoreError, Boto3Error) as error:
            raise Unavailable(f"the bucket {self._bucket}: {error}") from error


class _Folder:
    """Reads the blocks of one folder's object, several with each request."""

    def __init__(self, store: S3Store, root: DecodedCid) -> None:
        self._store, self._root = store, root
        self._window, self._window_start = b"", 0
        self._sections: dict[bytes, tuple[int, int]] | None = None

    def fetch(self, cid: DecodedCid) -> bytes:
        """A block, not hashed yet. Errors: `ContentMissing`, `ContentCorrupt`, `Unavailable`."""
        if self._sections is None:
            self._sections = self._read_sections()
        if cid.digest not in self._sections:
            raise ContentMissing(f"block {cid} was not found", "cid", {"cid": str(cid)})
        section = self._read(*self._sections[cid.digest])
        try:
            _, at = read_varint(section, 0)
        except ValueError as error:
            raise ContentCorrupt(f"a section of {self._root} is malformed: {error}") from error
        return section[at + len(cid.raw) :]

    def _read_sections(self) -> dict[bytes, tuple[int, int]]:
        self._window = self._store.get(self._root, 0, WINDOW_BYTES)
        data, index = read_header(self._window)
        is_whole = len(self._window) < WINDOW_BYTES
        if is_whole:
            return read_index(self._window[index:], data, index)
        rest = self._store.get(self._root, index, index + MAX_INDEX_BYTES + 1)
        if len(rest) > MAX_INDEX_BYTES:
            raise ContentCorrupt(f"the index of {self._root} has more than {MAX_INDEX_BYTES} bytes")
        return read_index(rest, data, index)

    def _read(self, start: int, end: int) -> bytes:
        if end - start > MAX_SECTION_BYTES:
            raise ContentCorrupt(f"a section of {self._root} has {end - start} bytes")
        at = start - self._window_start
        if not 0 <= at <= at + end - start <= len(self._window):
            self._window = self._store.get(self._root, start, max(end, start + WINDOW_BYTES))
            self._window_start, at = start, 0
        return self._window[at : at + end - start]


class _Blocks:
    """Blocks in a temporary file in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._file: BinaryIO = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by `__exit__`
        self._places: dict[DecodedCid, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._file.close()

    def put(self, cid: DecodedCid, block: bytes) -> None:
        if cid not in self._places:
            self._places[cid] = self._file.seek(0, 2), len(block)
            self._file.write(block)

    def get(self, cid: DecodedCid) -> bytes:
        offset, size = self._places[cid]
        self._file.seek(offset)
        return self._file.read(size)


def parse_url(url: str) -> tuple[str, str]:
    """Bucket and key prefix of `s3://bucket/prefix`. Errors: `InvalidInput`."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise InvalidInput(f"{url!r} is not s3://bucket/prefix", "s3_url")
    prefix = parts.path.strip("/")
    return parts.netloc, f"{prefix}/" if prefix else ""
