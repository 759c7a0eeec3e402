"""What reading a folder of others costs."""

from __future__ import annotations

from collections import Counter
from contextlib import nullcontext
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from backend.domain.content import Codec, ContentCorrupt, ContentUnsafe, DecodedCid
from backend.domain.ids import Cid
from backend.storage.car import read_tree
from backend.storage.dagpb import Kind, Link, Node, encode
from backend.storage.reader import TreeReader

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Blocks:
    """Blocks, and how often each was read."""

    def __init__(self) -> None:
        self.reads = Counter[DecodedCid]()
        self._blocks: dict[DecodedCid, bytes] = {}

    def store(self, node: Node) -> DecodedCid:
        block = encode(node)
        cid = DecodedCid(Codec.DAG_PB, sha256(block).digest())
        self._blocks[cid] = block
        return cid

    def folder(self, entries: Iterable[DecodedCid]) -> DecodedCid:
        links = (Link(f"{number:05}", entry, 0) for number, entry in enumerate(entries))
        return self.store(Node(Kind.FOLDER, tuple(links)))

    def fetch(self, cid: DecodedCid) -> bytes:
        self.reads[cid] += 1
        return self._blocks[cid]


def test_a_block_that_a_folder_names_often_is_read_a_few_times(tmp_path: Path) -> None:
    """Decoding a block of two megabytes takes a second, and a folder of four has 45,000 names."""
    blocks = Blocks()
    files = [blocks.store(Node(Kind.FILE, size=1, data=b"%d" % number)) for number in range(9)]
    inner = blocks.folder(files * 10)
    root = Cid(str(blocks.folder([*files * 100, inner, inner])))
    reader = TreeReader(blocks.fetch)
    assert len(reader.entries(root)) == 902 + 180
    assert max(blocks.reads.values()) == 1
    reader.fetch_folder(root, tmp_path / "found", None)
    assert (tmp_path / "found" / "00899").read_bytes() == b"8"
    assert (tmp_path / "found" / "00901" / "00001").read_bytes() == b"1"


def test_a_folder_of_too_many_entries_is_refused_before_they_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("backend.storage.reader.MAX_ENTRIES", 30)
    blocks = Blocks()
    file, unread = (blocks.store(Node(Kind.FILE, size=1, data=data)) for data in (b"a", b"b"))
    root = blocks.folder([file, blocks.folder([file] * 28), blocks.folder([unread])])
    reader = TreeReader(blocks.fetch)
    with pytest.raises(ContentUnsafe, match="more than 30"):
        reader.entries(Cid(str(root)))
    assert blocks.reads[unread] == 0


def test_a_file_of_tiny_chunks_is_refused() -> None:
    """Crafted blocks of four megabytes describe a file of billions of them."""
    blocks = Blocks()
    byte = blocks.store(Node(Kind.FILE, size=1, data=b"a"))
    tiny = Node(Kind.FILE, tuple(Link("", byte, 0) for _ in range(3)), 3, (1, 1, 1))
    root = blocks.folder([blocks.store(tiny)])
    with pytest.raises(ContentCorrupt, match="contradicts its size"):
        b"".join(TreeReader(blocks.fetch).open(Cid(str(root)), "00000"))


def test_a_tree_of_too_many_links_is_refused_while_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each announces a block, which is remembered until it comes."""
    monkeypatch.setattr("backend.storage.car.MAX_LINKS", 10)
    blocks = Blocks()
    file = blocks.store(Node(Kind.FILE, size=1, data=b"a"))
    for num_names, is_read in ((8, True), (9, False)):
        root = blocks.folder([blocks.folder([file] * num_names), file])
        car = TreeReader(blocks.fetch).car(Cid(str(root)))
        expectation = nullcontext() if is_read else pytest.raises(ContentCorrupt, match="more than 10 links")
        with expectation:
            assert len(list(read_tree(root, car))) == 3
