"""CARv2 files: a CARv1 with an index of its blocks, so that one block can be read without the rest.

Source: https://ipld.io/specs/transport/car/carv2/. The index has the format MultihashIndexSorted.
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

from backend.domain.content import ContentCorrupt, DecodedCid

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

PRAGMA = b"\x0a\xa1\x67version\x02"
HEADER = struct.Struct("<16xQQQ")
"""Offset and size of the CARv1, offset of the index, after 16 bytes of characteristics."""
HEADER_BYTES = len(PRAGMA) + HEADER.size
_INDEX_START = struct.pack("<2sIQII", b"\x81\x08", 1, 0x12, 1, 40)
"""Codec 0x0401; one hash function, sha2-256; one width, of 32 bytes of digest and 8 of offset."""
_ENTRY = struct.Struct("<32sQ")


def write_indexed(sections: Iterable[tuple[DecodedCid | None, bytes]], file: BinaryIO) -> None:
    """Write a CARv2. `sections`: the CARv1's header, with None as its CID, then each block's section."""
    file.write(bytes(HEADER_BYTES))
    offset, entries = 0, []
    for cid, section in sections:
        if cid is not None:
            entries.append(_ENTRY.pack(cid.digest, offset))
        file.write(section)
        offset += len(section)
    file.write(_INDEX_START + struct.pack("<Q", len(entries) * _ENTRY.size) + b"".join(sorted(entries)))
    file.seek(0)
    file.write(PRAGMA + HEADER.pack(HEADER_BYTES, offset, HEADER_BYTES + offset))
    file.seek(0)


def read_header(start: bytes) -> tuple[int, int]:
    """Offsets of the CARv1 and of the index, from the start of a CARv2. Errors: `ContentCorrupt`."""
    if len(start) < HEADER_BYTES or not start.startswith(PRAGMA):
        raise ContentCorrupt("not a CARv2")
    data, size, index = HEADER.unpack_from(start, len(PRAGMA))
    if not HEADER_BYTES <= data <= data + size <= index:
        raise ContentCorrupt("the header of a CARv2 contradicts itself")
    return data, index


def read_index(index: bytes, data: int, end: int) -> dict[bytes, tuple[int, int]]:
    """Digest -> start and end of the block's section in the file.

    `data`: offset of the CARv1, which ends at `end`. Errors: `ContentCorrupt`.
    """
    entries = index[len(_INDEX_START) + 8 :]
    if not index.startswith(_INDEX_START) or len(entries) % _ENTRY.size:
        raise ContentCorrupt("the index of a CARv2 is malformed")
    starts = sorted((data + offset, digest) for digest, offset in _ENTRY.iter_unpack(entries))
    bounds = [*starts, (end, b"")]
    if any(first[0] >= second[0] for first, second in pairwise(bounds)):
        raise ContentCorrupt("the index of a CARv2 has offsets outside the file")
    return {digest: (start, stop) for (start, digest), (stop, _) in pairwise(bounds)}
