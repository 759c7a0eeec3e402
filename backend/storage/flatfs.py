"""Stores blocks as files in the layout of Kubo's `blocks/` folder, which a Kubo daemon can serve.

Source: https://github.com/ipfs/go-ds-flatfs. A block's key is its multihash in upper-case base32 without
padding; the next-to-last two characters of the key name its sub-folder.
"""

from __future__ import annotations

import base64
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from backend.disk.files import file_draft, sync_folder
from backend.domain.content import (
    SHA2_256,
    Codec,
    ContentCorrupt,
    ContentMissing,
    DecodedCid,
    verify_block,
)
from backend.domain.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SHARDING = "/repo/flatfs/shard/v1/next-to-last/2\n"
DRAFT = "draft-"
"""Prefix of the files of unfinished writes."""
DRAFT_SECONDS = 3600
"""More than the write of a block takes."""


class FlatFs:
    """`is_durable`: a block survives a power failure once `put` returns (one fsync each; off in tests)."""

    def __init__(self, root: Path, *, is_durable: bool = True) -> None:
        self._root = root
        self._is_durable = is_durable
        root.mkdir(parents=True, exist_ok=True)
        sharding = root / "SHARDING"
        if not sharding.exists():
            self.write(sharding, SHARDING.encode())
        elif sharding.read_text() != SHARDING:
            raise Conflict(f"{sharding} has a layout other than {SHARDING.strip()}", "blocks")

    def get(self, cid: DecodedCid) -> bytes:
        """The verified block. Errors: `ContentMissing`, `ContentCorrupt`."""
        try:
            block = self._path(cid).read_bytes()
        except FileNotFoundError:
            raise ContentMissing(f"block {cid} was not found", "cid", {"cid": str(cid)}) from None
        return verify_block(cid, block)

    def put(self, cid: DecodedCid, block: bytes) -> None:
        """Store a block unless it exists. Replaces a corrupt one, so adding again repairs a store."""
        try:
            self.get(cid)
        except (ContentMissing, ContentCorrupt):
            self.write(self._path(cid), block)

    def remove(self, key: str) -> None:
        (self._root / key[-3:-1] / f"{key}.data").unlink(missing_ok=True)

    def keys(self) -> Iterator[str]:
        return (path.stem for path in self._root.glob("??/*.data"))

    def remove_drafts(self) -> None:
        """Delete what interrupted writes left."""
        for draft in self._root.glob(f"{DRAFT}*"):
            with suppress(FileNotFoundError):  # this write has ended, or another process deleted it
                if draft.stat().st_mtime < time.time() - DRAFT_SECONDS:
                    draft.unlink()

    def write(self, path: Path, content: bytes) -> None:
        """Write atomically, also in the face of crashes and power failures."""
        path.parent.mkdir(exist_ok=True)
        name = self._root / f"{DRAFT}{secrets.token_hex(8)}"
        with file_draft(name, content, is_private=True, is_durable=self._is_durable) as draft:
            draft.replace(path)
        if self._is_durable:
            sync_folder(path.parent)

    def _path(self, cid: DecodedCid) -> Path:
        key = key_of(cid)
        return self._root / key[-3:-1] / f"{key}.data"


def key_of(cid: DecodedCid) -> str:
    return base64.b32encode(cid.multihash).decode().rstrip("=")


def leaf_of(key: str) -> DecodedCid:
    """The block's CID with the codec `raw`."""
    multihash = base64.b32decode(key + "=" * (-len(key) % 8))
    return DecodedCid(Codec.RAW, multihash[len(SHA2_256) :])
