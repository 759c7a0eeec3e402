"""What reading a folder of others costs."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING

from backend.domain.content import Codec, DecodedCid
from backend.domain.ids import Cid
from backend.storage.dagpb import Kind, Link, Node, encode
from backend.storage.reader import TreeReader

if TYPE_CHECKING:
    from pathlib import Path


def test_a_block_that_a_folder_names_often_is_read_a_few_times(tmp_path: Path) -> None:
    """Decoding a block of two megabytes takes a second, and a folder of four has 45,000 names."""
    blocks: dict[DecodedCid, bytes] = {}
    reads = Counter[DecodedCid]()

    def store(node: Node) -> DecodedCid:
        block = encode(node)
        cid = DecodedCid(Codec.DAG_PB, sha256(block).digest())
        blocks[cid] = block
        return cid

    def fetch(cid: DecodedCid) -> bytes:
        reads[cid] += 1
        return blocks[cid]

    file = store(Node(Kind.FILE, size=3, data=b"abc"))
    root = store(Node(Kind.FOLDER, tuple(Link(f"{number:04}", file, 0) for number in range(1000))))
    reader = TreeReader(fetch)
    assert len(reader.entries(Cid(str(root)))) == 1000
    assert max(reads.values()) == 1
    reader.fetch_folder(Cid(str(root)), tmp_path / "found", None)
    assert (tmp_path / "found" / "0999").read_bytes() == b"abc"
    assert reads[file] == 3
