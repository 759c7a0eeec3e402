"""Reads files and folders from blocks of any source.

Publishers are not trusted: every block is hashed, names cannot leave the folder, and sizes are checked before
anything is written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from backend.disk.files import folder_draft
from backend.domain.content import (
    Codec,
    ContentCorrupt,
    ContentMissing,
    ContentUnsafe,
    DecodedCid,
    decode_cid,
    verify_block,
)
from backend.domain.errors import Conflict
from backend.storage.car import car_header, car_section
from backend.storage.dagpb import Kind, Node, node_of
from backend.storage.unixfs import MAX_DEPTH, check_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from backend.domain.ids import Cid

    Nodes = Callable[[DecodedCid], Node]
    Summary = int | dict[str, DecodedCid]

MAX_BLOCK_BYTES = 2 << 20
"""The largest block that IPFS peers exchange."""
NUM_KEPT_NODES = 8
"""Decoded nodes that an operation keeps; each may have 45,000 links."""
MAX_ENTRIES = 100_000
"""Limit of files and folders below one folder: a few crafted blocks could expand exponentially."""
MIN_CHUNK_BYTES = 1024
"""Of a file on average: smaller chunks cost more to read than to store. Importers write 256 KiB and more."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or folder below a folder; `size` is the file's bytes, None for a folder."""

    path: str
    cid: DecodedCid
    size: int | None


class TreeReader:
    """`fetch(cid)` returns an unverified block, or raises `ContentMissing`."""

    def __init__(self, fetch: Callable[[DecodedCid], bytes]) -> None:
        self._fetch = fetch

    def block(self, cid: DecodedCid) -> bytes:
        block = self._fetch(cid)
        if len(block) > MAX_BLOCK_BYTES:
            raise ContentCorrupt(f"block {cid} has {len(block)} bytes", details={"cid": str(cid)})
        return verify_block(cid, block)

    def blocks(self, root: DecodedCid) -> Iterator[tuple[DecodedCid, bytes]]:
        """Every block of the tree once, depth first, in the order of `ipfs dag export`."""
        seen: set[DecodedCid] = set()
        pending = [root]
        while pending:
            cid = pending.pop()
            if cid not in seen:
                seen.add(cid)
                block = self.block(cid)
                yield cid, block
                pending.extend(link.cid for link in reversed(node_of(cid, block).links))

    def cids(self, root: DecodedCid) -> Iterator[DecodedCid]:
        """Of every block of the tree once. Reads the blocks that have links, and no file's content."""
        seen: set[DecodedCid] = set()
        pending = [root]
        while pending:
            cid = pending.pop()
            if cid not in seen:
                seen.add(cid)
                yield cid
                pending.extend(self.links(cid))

    def links(self, cid: DecodedCid) -> tuple[DecodedCid, ...]:
        """What the block links to. A raw block, which has file content alone, is not read."""
        return tuple(link.cid for link in self._node(cid).links) if cid.codec is Codec.DAG_PB else ()

    def open(self, cid: Cid, name: str) -> Iterator[bytes]:
        found = self._find(decode_cid(cid), name)
        nodes = self._nodes()
        node = nodes(found)
        if node.kind is Kind.FOLDER:
            raise ContentMissing(f"{name!r} in {cid} is a folder", "name", {"cid": cid, "name": name})
        return _chunks(nodes, found, node.size, 0)

    def entries(self, cid: Cid) -> list[Entry]:
        """Files and folders below the folder, a folder before its contents."""
        return _Walk(self._node, decode_cid(cid)).entries()

    def fetch_folder(self, cid: Cid, destination: Path, max_bytes: int | None) -> None:
        entries = self.entries(cid)
        size = sum(entry.size or 0 for entry in entries)
        if max_bytes is not None and size > max_bytes:
            details = {"cid": cid, "bytes": size, "max_bytes": max_bytes}
            raise ContentUnsafe(f"{cid} has {size} bytes, more than {max_bytes}", "cid", details)
        if destination.exists():
            raise Conflict(f"{destination} exists already", "destination")
        nodes = self._nodes()
        with folder_draft(destination) as draft:
            for entry in entries:
                _write(nodes, entry, draft)

    def car(self, cid: Cid) -> Iterator[bytes]:
        root = decode_cid(cid)
        yield car_header(root)
        for below, block in self.blocks(root):
            yield car_section(below, block)

    def _find(self, folder: DecodedCid, name: str) -> DecodedCid:
        current = folder
        for part in name.split("/") if name else ():
            links = _entries_of(current, self._node(current))
            if part not in links:
                details = {"cid": str(folder), "name": name}
                raise ContentMissing(f"{folder} has no file {name!r}", "name", details)
            current = links[part]
        return current

    def _node(self, cid: DecodedCid) -> Node:
        return node_of(cid, self.block(cid))

    def _nodes(self) -> Nodes:
        """Nodes for one operation, which keeps the latest: a folder may name one large block very often."""
        return lru_cache(NUM_KEPT_NODES)(self._node)


def _write(nodes: Nodes, entry: Entry, root: Path) -> None:
    target = root / entry.path
    if entry.size is None:
        target.mkdir()
        return
    with target.open("xb") as file:
        for chunk in _chunks(nodes, entry.cid, entry.size, 0):
            file.write(chunk)
        file.flush()
        os.fsync(file.fileno())


class _Walk:
    """Lists a folder. Each block is decoded once: a folder may name the same large blocks very often."""

    def __init__(self, nodes: Nodes, root: DecodedCid) -> None:
        self._nodes, self._root = nodes, root
        self._summaries: dict[DecodedCid, Summary] = {}
        self._num_entries = 0

    def entries(self) -> list[Entry]:
        """Errors: `ContentUnsafe` for more than `MAX_ENTRIES`, `ContentMissing` if the root is no folder."""
        return list(self._below(self._root, "", 0))

    def _below(self, folder: DecodedCid, prefix: str, depth: int) -> Iterator[Entry]:
        if depth > MAX_DEPTH:
            raise ContentUnsafe(f"{folder} is nested more than {MAX_DEPTH} deep", "cid")
        links = self._summary(folder)
        if isinstance(links, int):
            raise ContentMissing(f"{folder} is not a folder", "cid", {"cid": str(folder)})
        self._num_entries += len(links)
        if self._num_entries > MAX_ENTRIES:
            message = f"{self._root} has more than {MAX_ENTRIES} files and folders"
            raise ContentUnsafe(message, "cid", {"cid": str(self._root)})
        for name, cid in links.items():
            below = self._summary(cid)
            if isinstance(below, int):
                yield Entry(prefix + name, cid, below)
            else:
                yield Entry(prefix + name, cid, None)
                yield from self._below(cid, f"{prefix}{name}/", depth + 1)

    def _summary(self, cid: DecodedCid) -> Summary:
        """A file's size, or a folder's entries."""
        if cid not in self._summaries:
            node = self._nodes(cid)
            self._summaries[cid] = _entries_of(cid, node) if node.kind is Kind.FOLDER else node.size
        return self._summaries[cid]


def _chunks(nodes: Nodes, cid: DecodedCid, size: int, depth: int) -> Iterator[bytes]:
    """The `size` bytes of a file. Every child must have the size that its parent states, and none may be
    empty, so crafted blocks cannot expand to more than the size of the root.
    """
    node = nodes(cid)
    child_sizes = node.block_sizes
    is_valid = (
        node.kind is not Kind.FOLDER
        and depth <= MAX_DEPTH
        and len(child_sizes) == len(node.links)
        and node.size == size == len(node.data) + sum(child_sizes)
        and all(child_sizes)
        and size >= MIN_CHUNK_BYTES * (len(child_sizes) - 1)
    )
    if not is_valid:
        raise ContentCorrupt(f"file node {cid} contradicts its size", details={"cid": str(cid)})
    if node.data:
        yield node.data
    for link, child_size in zip(node.links, child_sizes, strict=True):
        yield from _chunks(nodes, link.cid, child_size, depth + 1)


def _entries_of(cid: DecodedCid, node: Node) -> dict[str, DecodedCid]:
    if node.kind is not Kind.FOLDER:
        raise ContentMissing(f"{cid} is not a folder", "cid", {"cid": str(cid)})
    links = {check_name(link.name): link.cid for link in node.links}
    if len(links) != len(node.links):
        raise ContentUnsafe(f"folder {cid} names one entry twice", "cid", {"cid": str(cid)})
    return links
