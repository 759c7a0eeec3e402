"""Content ids: CIDv1 over sha-256.

Source: https://github.com/multiformats/cid. The chain stores only the 32-byte digest of a folder's CID.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from backend.domain.errors import DomainError, InvalidInput, NotFound
from backend.domain.ids import Cid, Hash32

SHA2_256 = b"\x12\x20"
"""Multihash prefix: function sha2-256, 32 bytes."""


class Codec(IntEnum):
    RAW = 0x55
    """A file of at most one chunk."""
    DAG_PB = 0x70
    """A UnixFS folder, or a file of several chunks."""


class MalformedCid(InvalidInput):
    """Not a CIDv1 in lower-case base32 over sha-256."""


class ContentMissing(NotFound):
    """The store does not have the block, folder or file in `details`."""


class ContentCorrupt(DomainError):
    """Bytes that do not hash to their id, or a block that is not valid UnixFS. They are never passed on."""


class ContentUnsafe(InvalidInput):
    """A folder with names that lead outside it, or one larger than the caller allows."""


@dataclass(frozen=True, slots=True)
class DecodedCid:
    codec: Codec
    digest: bytes
    """32 bytes."""

    @property
    def multihash(self) -> bytes:
        return SHA2_256 + self.digest

    @property
    def raw(self) -> bytes:
        """Binary CIDv1, 36 bytes, as in dag-pb links and CAR files."""
        return bytes((1, self.codec)) + self.multihash

    def __str__(self) -> str:
        return "b" + base64.b32encode(self.raw).decode().rstrip("=").lower()


def decode_cid(cid: str) -> DecodedCid:
    """Parse strictly, so that each content has exactly one CID. Errors: `MalformedCid`."""
    if len(cid) != 59 or cid[0] != "b":
        raise _malformed(cid)
    try:
        decoded = decode_binary_cid(base64.b32decode(cid[1:].upper() + "=" * 6))
    except ValueError:
        raise _malformed(cid) from None
    if str(decoded) != cid:
        raise _malformed(cid)
    return decoded


def decode_binary_cid(raw: bytes) -> DecodedCid:
    """Parse the 36 bytes of a CIDv1. Errors: `MalformedCid`."""
    is_known = len(raw) == 36 and raw[0] == 1 and raw[1] in tuple(Codec) and raw[2:4] == SHA2_256
    if not is_known:
        raise _malformed(raw.hex())
    return DecodedCid(Codec(raw[1]), raw[4:])


@lru_cache(1024)
def cid_of(digest: Hash32) -> Cid:
    """CID of the folder with this digest."""
    return Cid(str(DecodedCid(Codec.DAG_PB, bytes.fromhex(digest[2:]))))


def cid_digest(cid: Cid) -> Hash32:
    """Digest of a folder's CID. Errors: `MalformedCid`, also for the CID of a file."""
    decoded = decode_cid(cid)
    if decoded.codec is not Codec.DAG_PB:
        raise MalformedCid(f"{cid} is a bare file; published content is a folder", "cid", {"cid": cid})
    return Hash32("0x" + decoded.digest.hex())


def verify_block(cid: DecodedCid, block: bytes) -> bytes:
    """Return the block if it hashes to `cid`. Errors: `ContentCorrupt`."""
    if hashlib.sha256(block).digest() != cid.digest:
        raise ContentCorrupt(f"block {cid} does not hash to its id", details={"cid": str(cid)})
    return block


def _malformed(cid: str) -> MalformedCid:
    return MalformedCid(f"{cid!r} is not a CIDv1 (base32, sha-256, raw or dag-pb)", "cid", {"cid": cid})
