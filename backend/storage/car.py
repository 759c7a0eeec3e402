"""Reads and writes CARv1 archives with one root. Source: https://ipld.io/specs/transport/car/carv1/."""

from __future__ import annotations

import io
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from backend.domain.content import ContentCorrupt, DecodedCid, MalformedCid, decode_binary_cid, verify_block
from backend.storage.dagpb import node_of, read_varint, varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path
    from typing import BinaryIO

_HEADER_START = b"\xa2\x65roots\x81\xd8\x2a\x58\x25\x00"
_HEADER_END = b"\x67version\x01"
_HEADER_BYTES = len(_HEADER_START) + 36 + len(_HEADER_END)
_MAX_CONTENT_BYTES = (2 << 20) + 36
MAX_SECTION_BYTES = _MAX_CONTENT_BYTES + 10
"""Of a section: its length, a CID and a block."""
MAX_LINKS = 1 << 18
"""Limit of the links of an untrusted tree, whose CIDs `read_tree` keeps in memory: the chunks of 64 GiB."""


def car_header(root: DecodedCid) -> bytes:
    """`{"roots": [root], "version": 1}` in dag-cbor, preceded by its length."""
    return varint(_HEADER_BYTES) + _HEADER_START + root.raw + _HEADER_END


def car_section(cid: DecodedCid, block: bytes) -> bytes:
    return varint(36 + len(block)) + cid.raw + block


def read_car(stream: BinaryIO) -> tuple[DecodedCid, Iterator[tuple[DecodedCid, bytes]]]:
    """The root, and an iterator of verified blocks. Errors: `ContentCorrupt`."""
    header = _section(stream, _HEADER_BYTES)
    root = header[len(_HEADER_START) : len(_HEADER_START) + 36] if header else b""
    if header != _HEADER_START + root + _HEADER_END:
        raise ContentCorrupt("not a CARv1 with exactly one root")
    return _cid(root), _blocks(stream)


def read_tree(root: DecodedCid, chunks: Iterable[bytes]) -> Iterator[tuple[DecodedCid, bytes]]:
    """The verified blocks of one tree from an untrusted CAR. Each block must be linked from an earlier one,
    and occur once.

    Errors: `ContentCorrupt` for any other block, for more than `MAX_LINKS`, and at the end if a block is
    missing; what `chunks` raises.
    """
    actual_root, blocks = read_car(io.BufferedReader(_ChunkStream(chunks)))
    if actual_root != root:
        raise ContentCorrupt(f"the root of the CAR is {actual_root}, not {root}")
    expected, seen, num_links = {root}, set(), 0
    for cid, block in blocks:
        if cid not in expected:
            raise ContentCorrupt(f"the CAR of {root} has {cid}, which no earlier block links to")
        links = node_of(cid, block).links
        num_links += len(links)
        if num_links > MAX_LINKS:
            raise ContentCorrupt(f"the blocks of {root} have more than {MAX_LINKS} links")
        yield cid, block
        expected.discard(cid)
        seen.add(cid)
        expected |= {link.cid for link in links} - seen
    if expected:
        raise ContentCorrupt(f"the CAR of {root} lacks {len(expected)} blocks")


@contextmanager
def spooled_tree(root: DecodedCid, chunks: Iterable[bytes], folder: Path) -> Iterator[BinaryIO]:
    """Write the blocks of `read_tree` to a CAR in a temporary file, which has no name in `folder`."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(car_header(root))
        file.writelines(car_section(cid, block) for cid, block in read_tree(root, chunks))
        file.seek(0)
        yield file


class _ChunkStream(io.RawIOBase):
    """A readable stream over an iterable of chunks."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = chunk
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def _blocks(stream: BinaryIO) -> Iterator[tuple[DecodedCid, bytes]]:
    while (section := _section(stream, _MAX_CONTENT_BYTES)) is not None:
        cid = _cid(section[:36])
        yield cid, verify_block(cid, section[36:])


def _section(stream: BinaryIO, limit: int) -> bytes | None:
    """The next section without its length; None at the end of the stream."""
    length = bytearray()
    while not length or length[-1] & 0x80:
        byte = stream.read(1)
        if not byte and not length:
            return None
        if not byte or len(length) == 10:
            raise ContentCorrupt("CAR section with a malformed length")
        length += byte
    try:
        size, _ = read_varint(length, 0)
    except ValueError as error:
        raise ContentCorrupt(f"CAR section length: {error}") from error
    section = stream.read(size) if size <= limit else b""
    if len(section) != size:
        raise ContentCorrupt(f"CAR section of {size} bytes is cut off or too long")
    return section


def _cid(raw: bytes) -> DecodedCid:
    try:
        return decode_binary_cid(raw)
    except MalformedCid as error:
        raise ContentCorrupt(f"CAR section: {error}") from error
