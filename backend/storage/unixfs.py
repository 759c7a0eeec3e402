"""Turns files and folders into blocks: balanced trees with 174 links per node.

CIDs are those of `ipfs add --cid-version 1 --raw-leaves --chunker size-262144`.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from backend.disk.files import pieces
from backend.domain.content import Codec, ContentUnsafe, DecodedCid
from backend.storage.dagpb import Kind, Link, Node, encode

CHUNK_BYTES = 256 * 1024
MAX_LINKS = 174
MAX_FOLDER_BYTES = 256 * 1024
"""Size above which Kubo shards a folder over several blocks. Sharded folders are not supported here."""
MAX_DEPTH = 32

Tree = Mapping[str, "Tree | Path | bytes"]
"""A folder: name -> sub-folder, file on disk or file content."""
Put = Callable[[DecodedCid, bytes], object]
"""Receives each block, children before their parent."""


@dataclass(frozen=True, slots=True)
class Added:
    """Result of an import: `size` bytes of file, `total` bytes of blocks up to and including `cid`."""

    cid: DecodedCid
    size: int
    total: int


def import_tree(tree: Tree, put: Put) -> Added:
    """Import a folder. Errors: `ContentUnsafe` for a folder larger than one block; `OSError`."""
    added = {name: _import_entry(entry, put) for name, entry in tree.items()}
    links = [Link(name, added[name].cid, added[name].total) for name in sorted(added, key=str.encode)]
    node = Node(Kind.FOLDER, tuple(links))
    if sum(len(link.name.encode()) + len(link.cid.raw) for link in links) > MAX_FOLDER_BYTES:
        raise ContentUnsafe(f"a folder of {len(links)} entries is too large: spread them over sub-folders")
    return _put_node(node, links, put)


def import_file(chunks: Iterable[bytes], put: Put) -> Added:
    """Import a file. Every chunk but the last has `CHUNK_BYTES` bytes; an empty file has no chunks."""
    level = [_put_leaf(chunk, put) for chunk in chunks] or [_put_leaf(b"", put)]
    while len(level) > 1:
        groups = (level[start : start + MAX_LINKS] for start in range(0, len(level), MAX_LINKS))
        level = [_put_file_node(group, put) for group in groups]
    return level[0]


def tree_of_files(files: Mapping[str, Path | bytes]) -> Tree:
    """Nest files by their paths. Errors: `ContentUnsafe` for names that are not plain relative paths."""
    root: dict[str, Tree | Path | bytes] = {}
    for path, content in files.items():
        *parents, name = path.split("/")
        folder = root
        for parent in parents:
            below = folder.setdefault(check_name(parent), {})
            if not isinstance(below, dict):
                raise ContentUnsafe(f"{path!r} is below a file", "files")
            folder = below
        if check_name(name) in folder:
            raise ContentUnsafe(f"{path!r} is both a file and a folder", "files")
        folder[name] = content
    return root


def tree_of_directory(path: Path, depth: int = 0) -> Tree:
    """The tree of a directory. Errors: `ContentUnsafe` for links, devices and too deep nesting; `OSError`."""
    if depth > MAX_DEPTH:
        raise ContentUnsafe(f"{path} is nested more than {MAX_DEPTH} deep", "path")
    tree: dict[str, Tree | Path | bytes] = {}
    for child in path.iterdir():
        mode = child.lstat().st_mode
        if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            raise ContentUnsafe(f"{child} is neither a file nor a folder", "path")
        tree[check_name(child.name)] = tree_of_directory(child, depth + 1) if stat.S_ISDIR(mode) else child
    return tree


def check_name(name: str) -> str:
    """Return a path component that is safe on any system. Errors: `ContentUnsafe`."""
    try:
        is_valid = 0 < len(name.encode()) <= 255
    except UnicodeEncodeError:
        is_valid = False
    if not is_valid or name in {".", ".."} or any(c in "/\\:" or ord(c) < 32 for c in name):
        raise ContentUnsafe(f"{name!r} is not a safe file name", "name", {"name": repr(name)})
    return name


def _import_entry(entry: Tree | Path | bytes, put: Put) -> Added:
    if isinstance(entry, bytes):
        return import_file((entry[i : i + CHUNK_BYTES] for i in range(0, len(entry), CHUNK_BYTES)), put)
    if isinstance(entry, Path):
        return import_file(pieces(entry, CHUNK_BYTES), put)
    return import_tree(entry, put)


def _put_leaf(chunk: bytes, put: Put) -> Added:
    cid = DecodedCid(Codec.RAW, sha256(chunk).digest())
    put(cid, chunk)
    return Added(cid, len(chunk), len(chunk))


def _put_file_node(children: list[Added], put: Put) -> Added:
    links = [Link("", child.cid, child.total) for child in children]
    sizes = tuple(child.size for child in children)
    return _put_node(Node(Kind.FILE, tuple(links), sum(sizes), sizes), links, put)


def _put_node(node: Node, links: list[Link], put: Put) -> Added:
    block = encode(node)
    cid = DecodedCid(Codec.DAG_PB, sha256(block).digest())
    put(cid, block)
    return Added(cid, node.size, len(block) + sum(link.total for link in links))
