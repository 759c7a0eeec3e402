"""Encodes and decodes dag-pb nodes and the UnixFS metadata in them, two small protobuf messages.

Sources: https://ipld.io/specs/codecs/dag-pb/spec/ and https://specs.ipfs.tech/unixfs/.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from backend.domain.content import Codec, ContentCorrupt, DecodedCid, MalformedCid, decode_binary_cid

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VARINT, BYTES = 0, 2
"""The protobuf wire types that dag-pb and UnixFS use."""


class Kind(IntEnum):
    """UnixFS node types."""

    RAW = 0
    FOLDER = 1
    FILE = 2


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    """Empty for the chunks of a file."""
    cid: DecodedCid
    total: int
    """`Tsize`: bytes of all blocks below, as stated by the writer. Untrusted, and used for nothing."""


@dataclass(frozen=True, slots=True)
class Node:
    """One dag-pb block of a file tree."""

    kind: Kind
    links: tuple[Link, ...] = ()
    size: int = 0
    """File bytes in this subtree; 0 for a folder."""
    block_sizes: tuple[int, ...] = ()
    """File bytes below each link; empty for a folder."""
    data: bytes = b""
    """File bytes in the node itself, before those of its links."""


def encode(node: Node) -> bytes:
    """Canonical bytes, as Kubo writes them: links first, no mode, no times."""
    meta = _varint_field(1, node.kind)
    if node.data:
        meta += _bytes_field(2, node.data)
    if node.kind is not Kind.FOLDER:
        meta += _varint_field(3, node.size)
    meta += b"".join(_varint_field(4, size) for size in node.block_sizes)
    return b"".join(_bytes_field(2, _encode_link(link)) for link in node.links) + _bytes_field(1, meta)


def decode(block: bytes) -> Node:
    """Errors: `ContentCorrupt` unless the block is a UnixFS file or folder of a `Kind` above."""
    try:
        links: list[Link] = []
        meta: bytes | None = None
        for number, value in _fields(block):
            if number == 2 and isinstance(value, bytes):
                links.append(_decode_link(value))
            elif number == 1 and isinstance(value, bytes) and meta is None:
                meta = value
            else:
                raise ContentCorrupt(f"unexpected field {number} in a dag-pb node")
        if meta is None:
            raise ContentCorrupt("a dag-pb node without UnixFS data")
        return _decode_meta(meta, tuple(links))
    except (ValueError, MalformedCid) as error:
        raise ContentCorrupt(f"malformed dag-pb node: {error}") from error


def node_of(cid: DecodedCid, block: bytes) -> Node:
    """Decode a verified block by its codec. Errors: `ContentCorrupt`."""
    return decode(block) if cid.codec is Codec.DAG_PB else Node(Kind.RAW, size=len(block), data=block)


def _encode_link(link: Link) -> bytes:
    return _bytes_field(1, link.cid.raw) + _bytes_field(2, link.name.encode()) + _varint_field(3, link.total)


def _decode_link(raw: bytes) -> Link:
    values = dict(_fields(raw))
    cid, name, total = values.get(1), values.get(2, b""), values.get(3, 0)
    if not (isinstance(cid, bytes) and isinstance(name, bytes) and isinstance(total, int)):
        raise ContentCorrupt("a dag-pb link lacks its CID, name or size")
    return Link(name.decode(), decode_binary_cid(cid), total)


def _decode_meta(meta: bytes, links: tuple[Link, ...]) -> Node:
    kind, data, size, block_sizes = -1, b"", 0, []
    for number, value in _fields(meta):
        match number, value:
            case 1, int():
                kind = value
            case 2, bytes():
                data = value
            case 3, int():
                size = value
            case 4, int():
                block_sizes.append(value)
            case 4, bytes():
                block_sizes.extend(_packed(value))
            case ((7 | 8), _):  # mode and time, which newer writers may add
                continue
            case _:
                raise ContentCorrupt(f"unexpected field {number} in UnixFS data")
    if kind not in tuple(Kind):
        raise ContentCorrupt(f"UnixFS type {kind} (link, sharded folder, ...) is not supported")
    if kind == Kind.FOLDER and (size or data or block_sizes):
        raise ContentCorrupt("a UnixFS folder with the content of a file")
    return Node(Kind(kind), links, size, tuple(block_sizes), data)


def varint(number: int) -> bytes:
    """Unsigned LEB128."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def read_varint(buffer: Sequence[int], offset: int) -> tuple[int, int]:
    """(value below 2^64, offset after it). Raises `ValueError`, also for a non-minimal encoding."""
    value = 0
    for index in range(10):
        if offset + index >= len(buffer):
            raise ValueError("varint is truncated")
        byte = buffer[offset + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value >> 64 or (index and not byte):
                break
            return value, offset + index + 1
    raise ValueError("varint is too long")


def _varint_field(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return varint(number << 3 | BYTES) + varint(len(value)) + value


def _packed(value: bytes) -> Iterator[int]:
    offset = 0
    while offset < len(value):
        number, offset = read_varint(value, offset)
        yield number


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    offset = 0
    while offset < len(message):
        tag, offset = read_varint(message, offset)
        value, offset = read_varint(message, offset)
        if tag & 7 == VARINT:
            yield tag >> 3, value
        elif tag & 7 == BYTES:
            if offset + value > len(message):
                raise ValueError("field is truncated")
            yield tag >> 3, message[offset : offset + value]
            offset += value
        else:
            raise ValueError(f"wire type {tag & 7}")
