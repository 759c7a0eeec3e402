"""Parsers of content-addressed data: CAR files, UnixFS blocks, trees of blocks, CIDs."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tempfile
from itertools import islice
from pathlib import Path

from backend.domain.content import (
    Codec,
    ContentCorrupt,
    ContentMissing,
    ContentUnsafe,
    DecodedCid,
    MalformedCid,
    decode_cid,
)
from backend.domain.ids import Cid
from backend.storage.car import car_header, car_section, read_car, read_tree
from backend.storage.dagpb import Kind, Link, Node, decode, encode
from backend.storage.reader import TreeReader
from backend.storage.unixfs import import_tree, tree_of_files
from tests.fuzz.target import Bytes, Target

ERRORS = (ContentCorrupt, ContentMissing, ContentUnsafe)
MAX_NODES, MAX_LINKS, MAX_OPENED = 8, 5, 40
FILES = {"a.txt": b"hello", "b/c": b"", "b/d.bin": bytes(300)}


def _blocks() -> tuple[DecodedCid, dict[DecodedCid, bytes]]:
    blocks: dict[DecodedCid, bytes] = {}
    return import_tree(tree_of_files(FILES), blocks.__setitem__).cid, blocks


def car(data: bytes) -> None:
    with contextlib.suppress(ContentCorrupt):
        root, _ = read_car(io.BytesIO(data))
        halves = (data[: len(data) // 2], b"", data[len(data) // 2 :])
        found = dict(read_tree(root, halves))
        assert all(hashlib.sha256(block).digest() == cid.digest for cid, block in found.items())


def car_seeds() -> list[bytes]:
    root, blocks = _blocks()
    ordered = list(TreeReader(blocks.__getitem__).blocks(root))
    whole = car_header(root) + b"".join(car_section(cid, block) for cid, block in ordered)
    return [whole, whole[:-1], car_header(root)]


def unixfs(data: bytes) -> None:
    with contextlib.suppress(ContentCorrupt):
        node = decode(data)
        assert decode(encode(node)) == node, "what is read can be written and read again"


def unixfs_seeds() -> list[bytes]:
    root, blocks = _blocks()
    parts = Node(Kind.FILE, (Link("", root, 3), Link("", root, 4)), 7, (3, 4))
    inline = Node(Kind.FILE, size=3, data=b"abc")
    return [block for cid, block in blocks.items() if cid.codec is Codec.DAG_PB] + [
        encode(parts),
        encode(inline),
        encode(Node(Kind.FOLDER)),
    ]


def tree(data: bytes) -> None:
    """Blocks are built from the input and hashed, so that the reader gets past its hashes."""
    source = Bytes(data)
    blocks: dict[DecodedCid, bytes] = {}
    cids = [DecodedCid(Codec.RAW, bytes(32))]
    for _ in range(1 + source.number() % MAX_NODES):
        block, codec = _block(source, cids)
        cids.append(DecodedCid(codec, hashlib.sha256(block).digest()))
        blocks[cids[-1]] = block
    root = Cid(str(cids[-1]))

    def fetch(cid: DecodedCid) -> bytes:
        if cid not in blocks:
            raise ContentMissing("no such block")
        return blocks[cid]

    reader = TreeReader(fetch)
    with contextlib.suppress(*ERRORS):
        whole = b"".join(reader.car(root))
        assert dict(read_tree(cids[-1], [whole])) == dict(reader.blocks(cids[-1]))
    with contextlib.suppress(*ERRORS):
        entries = reader.entries(root)
        for entry in entries[:MAX_OPENED]:
            with contextlib.suppress(*ERRORS):
                size = sum(map(len, islice(reader.open(root, entry.path), 1000)))
                assert size == entry.size
        if len(entries) < MAX_OPENED:
            _fetch(reader, root)


def _block(source: Bytes, cids: list[DecodedCid]) -> tuple[bytes, Codec]:
    """A leaf, any bytes as a node, or a node with links to the blocks before it."""
    kind = source.number() % 5
    if kind in {3, 4}:
        return source.take(source.number()), (Codec.RAW if kind == 3 else Codec.DAG_PB)
    links = []
    for _ in range(source.number() % (MAX_LINKS + 1)):
        name = source.take(source.number() % 8).decode("latin-1")
        links.append(Link(name, cids[source.number() % len(cids)], source.number()))
    sizes = tuple(source.number(2) for _ in range(source.number() % (MAX_LINKS + 1)))
    text = source.take(source.number() % 16)
    return encode(Node(Kind(kind), tuple(links), source.number(2), sizes, text)), Codec.DAG_PB


def _fetch(reader: TreeReader, root: Cid) -> None:
    with tempfile.TemporaryDirectory(prefix="loraledger-fuzz-") as folder:
        place = Path(folder) / "below" / "found"
        with contextlib.suppress(*ERRORS):
            reader.fetch_folder(root, place, 1 << 20)
        assert [each.name for each in Path(folder).iterdir()] in ([], ["below"]), "nothing outside"
        below = [each.name for each in place.parent.iterdir()] if place.parent.exists() else []
        assert below in ([], ["found"]), "all of the folder, or nothing"


def tree_seeds() -> list[bytes]:
    leaf = bytes((3, 5)) + b"hello"
    folder = bytes((1, 2, 1)) + b"a" + bytes((1, 5, 1)) + b"b" + bytes((1, 5, 0, 0, 0, 0))
    file = bytes((2, 2, 0, 1, 5, 0, 1, 5, 2, 0, 5, 0, 5, 0, 0, 10))
    named = bytes((1, 1, 1)) + b"f" + bytes((2, 9, 0, 0, 0, 0))
    return [
        b"\0" + leaf,
        b"\1" + leaf + folder,
        b"\2" + leaf + file + named,
        b"\3" + leaf + file + named + named,
    ]


def cid(data: bytes) -> None:
    text = data.decode("utf-8", "surrogatepass") if _is_text(data) else data.decode("latin-1")
    with contextlib.suppress(MalformedCid):
        assert str(decode_cid(Cid(text))) == text, "each content has one CID"


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def cid_seeds() -> list[bytes]:
    root, blocks = _blocks()
    return [str(each).encode() for each in (root, *blocks)]


TARGETS = (
    Target("car", car, car_seeds),
    Target("unixfs", unixfs, unixfs_seeds),
    Target("tree", tree, tree_seeds),
    Target("cid", cid, cid_seeds, max_bytes=80),
)
