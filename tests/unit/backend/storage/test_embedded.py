from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from hashlib import sha256
from math import inf
from typing import TYPE_CHECKING

import aleph_cid
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.content import Codec, ContentCorrupt, ContentUnsafe, DecodedCid, decode_cid
from backend.domain.errors import Conflict
from backend.domain.ids import Cid
from backend.storage import unixfs
from backend.storage.dagpb import decode
from backend.storage.embedded import COPY, EmbeddedStore
from backend.storage.flatfs import SHARDING, key_of
from backend.storage.unixfs import CHUNK_BYTES, MAX_LINKS, import_file, import_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def nothing(_cid: DecodedCid, _block: bytes) -> None:
    return


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_files_around_the_chunk_size_have_the_oracles_cid(size: int) -> None:
    content = random.Random(size).randbytes(size)
    oracle = aleph_cid.CidHasher.for_ipfs_v1_raw_leaves()
    oracle.update(content)
    chunks = [content[i : i + CHUNK_BYTES] for i in range(0, size, CHUNK_BYTES)]
    assert str(import_file(chunks, nothing).cid) == oracle.finalize()


@pytest.mark.parametrize("chunks", [MAX_LINKS, MAX_LINKS + 1, 2 * MAX_LINKS + 1])
def test_files_around_the_link_limit_have_the_oracles_cid(chunks: int) -> None:
    oracle = aleph_cid.CidHasher.for_ipfs_v1_raw_leaves()
    blocks = [i.to_bytes(4, "big") * (CHUNK_BYTES // 4) for i in range(chunks)]
    for block in blocks:
        oracle.update(block)
    assert str(import_file(blocks, nothing).cid) == oracle.finalize()


@given(
    st.dictionaries(
        st.from_regex(r"[a-zé. ]{1,8}", fullmatch=True).filter(lambda n: n.strip(".")),
        st.binary(max_size=64),
        min_size=1,
    )
)
def test_folders_have_the_oracles_cid(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
) -> None:
    folder = tmp_path_factory.mktemp("in")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    assert str(import_tree(files, nothing).cid) == aleph_cid.hash_folder(folder)


def test_blocks_lie_where_kubo_looks_for_them(embedded: EmbeddedStore, tmp_path: Path) -> None:
    embedded.add_folder({"hello.txt": b"hello"})
    blocks = tmp_path / "ipfs" / "blocks"
    key = key_of(leaf(b"hello"))
    assert key.startswith("CIQ")
    assert (blocks / key[-3:-1] / f"{key}.data").read_bytes() == b"hello"
    assert (blocks / "SHARDING").read_text() == SHARDING


def test_another_sharding_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    (tmp_path / "blocks" / "SHARDING").write_text("/repo/flatfs/shard/v1/prefix/2\n")
    with pytest.raises(Conflict):
        EmbeddedStore(tmp_path)


def test_pins_survive_a_restart(embedded: EmbeddedStore, tmp_path: Path) -> None:
    cid = embedded.add_folder({"a": b"x"})
    again = EmbeddedStore(tmp_path / "ipfs")
    assert again.has(cid)
    assert again.read(cid, "a") == b"x"


def test_the_car_equals_the_oracles(embedded: EmbeddedStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"x" * CHUNK_BYTES + b"y")
    aleph_cid.write_folder_car(tmp_path / "in", tmp_path / "a.car")
    cid = embedded.add_directory(tmp_path / "in")
    ours = b"".join(embedded.car(cid))
    theirs = (tmp_path / "a.car").read_bytes()
    assert len(ours) == len(theirs)
    with (tmp_path / "a.car").open("rb") as car:
        assert EmbeddedStore(tmp_path / "other", is_durable=False).import_car(car) == cid


def test_garbage_collection_keeps_exactly_what_pins_need(embedded: EmbeddedStore) -> None:
    kept = embedded.add_folder({"a": b"x", "shared": b"s"})
    gone = embedded.add_folder({"b": b"y", "shared": b"s"})
    embedded.unpin(gone)
    assert len(embedded.collect_garbage()) == 2
    assert embedded.read(kept, "shared") == b"s"
    embedded.unpin(kept)
    embedded.collect_garbage()
    assert list(embedded._blocks.keys()) == []


def leaf(content: bytes) -> DecodedCid:
    return DecodedCid(Codec.RAW, sha256(content).digest())


def stored(store: EmbeddedStore, *cids: DecodedCid) -> list[bool]:
    keys = set(store._blocks.keys())
    return [key_of(cid) in keys for cid in cids]


def damage(store: EmbeddedStore, cid: DecodedCid, content: bytes | None) -> None:
    """Replace what is stored as the block; None: remove it."""
    path = store._blocks._path(cid)
    path.unlink() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("content", [None, b"corrupt"], ids=["missing", "corrupt"])
def test_a_damaged_leaf_of_a_pinned_tree_keeps_no_garbage_and_loses_no_block(
    embedded: EmbeddedStore, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    kept = embedded.add_folder({"a": b"x", "b": b"y"})
    withdrawn = embedded.add_folder({"c": b"z"})
    embedded.unpin(embedded.add_folder({"d": b"unpinned"}))
    damage(embedded, leaf(b"x"), content)
    embedded.forget(withdrawn)
    assert stored(embedded, leaf(b"z"), leaf(b"unpinned"), decode_cid(withdrawn)) == [False, False, False]
    assert embedded.read(kept, "b") == b"y"
    assert caplog.messages == []


@pytest.mark.parametrize("content", [None, b"corrupt"], ids=["missing", "corrupt"])
def test_below_an_unreadable_node_of_a_pinned_tree_nothing_is_deleted_but_what_was_forgotten(
    embedded: EmbeddedStore, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    chunks = [bytes([number]) * CHUNK_BYTES for number in range(2)]
    damaged = embedded.add_folder({"a": b"x", "file": b"".join(chunks)})
    (node,) = (cid for cid in embedded._reader.links(decode_cid(damaged)) if cid.codec is Codec.DAG_PB)
    block = embedded._reader.block(node)
    withdrawn = embedded.add_folder({"c": b"z", "shared": b"x"})
    embedded.unpin(embedded.add_folder({"d": b"unpinned"}))
    damage(embedded, node, content)

    embedded.forget(withdrawn)
    assert stored(embedded, leaf(b"z"), decode_cid(withdrawn)) == [False, False]
    assert stored(embedded, leaf(b"x"), leaf(b"unpinned"), *map(leaf, chunks)) == [True] * 4
    assert str(node) in caplog.text

    assert embedded.collect_garbage() == []
    damage(embedded, node, block)
    assert embedded.read(damaged, "file") == b"".join(chunks)
    embedded.collect_garbage()
    assert stored(embedded, leaf(b"unpinned"), leaf(b"x")) == [False, True]


def test_all_that_is_left_of_a_damaged_tree_is_deleted_with_it(embedded: EmbeddedStore) -> None:
    withdrawn = embedded.add_folder({"a": b"x"})
    damage(embedded, decode_cid(withdrawn), None)
    embedded.forget(withdrawn)
    assert list(embedded._blocks.keys()) == []


def test_garbage_collection_sweeps_what_interrupted_writes_left(
    embedded: EmbeddedStore, tmp_path: Path
) -> None:
    kept = embedded.add_folder({"a": b"x"})
    old, new = (tmp_path / "ipfs" / "blocks" / f"draft-{name}" for name in ("interrupted", "running"))
    for draft in (old, new):
        draft.write_bytes(b"withdrawn")
    os.utime(old, (0, 0))
    assert embedded.collect_garbage() == []
    assert (old.exists(), new.exists()) == (False, True)
    assert embedded.read(kept, "a") == b"x"


def test_a_pin_needs_the_whole_tree(embedded: EmbeddedStore) -> None:
    cid = embedded.add_folder({"a": b"x"})
    embedded.unpin(cid)
    damage(embedded, leaf(b"x"), None)
    with pytest.raises(Exception, match="not found"):
        embedded.pin(cid)
    assert not embedded.has(cid)


def test_an_addition_that_fails_midway_pins_nothing_and_leaves_no_draft(
    embedded: EmbeddedStore, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError):
        embedded.add_folder({"a": b"x", "b": tmp_path / "absent"})
    assert embedded.pins() == []
    assert list((tmp_path / "ipfs" / "blocks").glob("draft-*")) == []


def test_a_folder_too_large_for_one_block_is_refused(embedded: EmbeddedStore) -> None:
    with pytest.raises(ContentUnsafe):
        embedded.add_folder({f"{i:0250}": b"" for i in range(1000)})


def test_too_deep_nesting_is_refused(embedded: EmbeddedStore, tmp_path: Path) -> None:
    deep = tmp_path / "in"
    (deep / "/".join("x" * (unixfs.MAX_DEPTH + 2))).mkdir(parents=True)
    with pytest.raises(ContentUnsafe):
        embedded.add_directory(deep)


def test_two_processes_add_to_one_store(embedded: EmbeddedStore, tmp_path: Path) -> None:
    script = (
        "import sys, pathlib; from backend.storage.embedded import EmbeddedStore\n"
        "s = EmbeddedStore(pathlib.Path(sys.argv[1]))\n"
        "for i in range(20): s.add_folder({'a': b'%d' % i, 'b': sys.argv[2].encode()})\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "ipfs")]
    running = [subprocess.Popen([*command, name], env=os.environ) for name in ("one", "two")]
    assert [process.wait(60) for process in running] == [0, 0]
    assert len(embedded.pins()) == 40
    assert embedded.collect_garbage() == []


@given(st.binary(max_size=80))
def test_arbitrary_blocks_are_decoded_or_refused(block: bytes) -> None:
    try:
        decode(block)
    except ContentCorrupt:
        return


@pytest.mark.parametrize(
    "block",
    [
        b"",
        bytes.fromhex("0a020805"),  # HAMT shard
        bytes.fromhex("0a020804"),  # symbolic link
        bytes.fromhex("0a0208010a020801"),  # data twice
        bytes.fromhex("12020a000a020801"),  # link with an empty id
        bytes.fromhex("0a03088100"),  # overlong varint
        bytes.fromhex("0d00000000"),  # fixed32
        bytes.fromhex("0a09080112036162631803"),  # folder with the content of a file
    ],
)
def test_an_irregular_file_is_refused(block: bytes) -> None:
    with pytest.raises(ContentCorrupt):
        decode(block)


def test_nodes_survive_encoding(embedded: EmbeddedStore) -> None:
    cid = embedded.add_folder({"a": b"x" * CHUNK_BYTES * 2})
    for below, block in embedded._reader.blocks(decode_cid(cid)):
        assert sha256(block).digest() == below.digest


def copied(store: EmbeddedStore, folder: Path, content: bytes) -> Cid:
    elsewhere = EmbeddedStore(folder, is_durable=False)
    cid = elsewhere.add_folder({"a": content, "shared": b"shared"})
    store.add_copy(cid, elsewhere.car(cid))
    return cid


def test_copies_are_evicted_and_what_they_share_with_others_stays(
    embedded: EmbeddedStore, tmp_path: Path
) -> None:
    own = embedded.add_folder({"b": b"own", "shared": b"shared"})
    evicted, left = (copied(embedded, tmp_path / "elsewhere", content) for content in (b"x", b"y"))
    embedded.evict(evicted, own)
    embedded.evict(evicted)
    assert [embedded.has(cid) for cid in (own, evicted, left)] == [True, False, True]
    assert stored(embedded, leaf(b"x"), leaf(b"y"), leaf(b"own"), leaf(b"shared")) == [
        False,
        True,
        True,
        True,
    ]
    assert copied(embedded, tmp_path / "elsewhere", b"x") == evicted
    assert embedded.read(evicted, "a") == b"x"


@pytest.mark.parametrize("keeps", ["keep", "pin", "add_folder", "add_car"])
def test_a_copy_that_is_kept_or_added_by_the_operator_is_not_evicted(
    embedded: EmbeddedStore, tmp_path: Path, keeps: str
) -> None:
    cid = copied(embedded, tmp_path / "elsewhere", b"x")
    car = list(embedded.car(cid))
    arguments = {"add_folder": [{"a": b"x", "shared": b"shared"}], "add_car": [cid, car]}.get(keeps, [cid])
    getattr(embedded, keeps)(*arguments)
    embedded.add_copy(cid, car)
    embedded.evict(cid)
    assert embedded.read(cid, "a") == b"x"


def test_a_copy_is_kept_also_while_its_addition_ends(embedded: EmbeddedStore, tmp_path: Path) -> None:
    cid = copied(embedded, tmp_path / "elsewhere", b"x")
    with (tmp_path / "ipfs" / "pins" / cid).open("wb") as pin:  # as in the middle of `add_copy`
        assert embedded.keep(cid)
        pin.write(COPY)
    embedded.evict(cid)
    assert embedded.has(cid)


def test_an_eviction_without_copies_reads_no_blocks(
    embedded: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, copy = embedded.add_folder({"a": b"own"}), copied(embedded, tmp_path / "elsewhere", b"x")
    monkeypatch.setattr(embedded._reader, "links", None)
    embedded.evict()
    embedded.evict(own, Cid(str(leaf(b"absent"))))
    assert embedded.copies(inf) == [copy]


@pytest.mark.parametrize("add", ["add_car", "add_copy"])
def test_no_deletion_waits_while_a_folder_is_sent_slowly(
    embedded: EmbeddedStore, tmp_path: Path, add: str
) -> None:
    elsewhere = EmbeddedStore(tmp_path / "elsewhere", is_durable=False)
    copy, own = copied(embedded, tmp_path / "elsewhere", b"x"), embedded.add_folder({"a": b"own"})
    slow = elsewhere.add_folder({"a": b"slow", "b": b"x"})

    def sent_slowly() -> Iterator[bytes]:
        yield from elsewhere.car(slow)
        embedded.evict(copy)
        embedded.forget(own)
        embedded.collect_garbage()
        assert stored(embedded, leaf(b"x"), leaf(b"own")) == [False, False]

    getattr(embedded, add)(slow, sent_slowly())
    assert embedded.pins() == [slow]
    assert (embedded.read(slow, "a"), embedded.read(slow, "b")) == (b"slow", b"x")


UNREADABLE = pytest.mark.parametrize("content", [None, b"corrupt", OSError(errno.EIO, "Input/output error")])


def make_unreadable(
    store: EmbeddedStore, node: DecodedCid, content: bytes | OSError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damage a block, or have reading it raise."""
    if not isinstance(content, OSError):
        damage(store, node, content)
        return
    links = store._reader.links

    def links_of_failing_disk(cid: DecodedCid) -> tuple[DecodedCid, ...]:
        if cid == node:
            raise content
        return links(cid)

    monkeypatch.setattr(store._reader, "links", links_of_failing_disk)


@UNREADABLE
def test_an_eviction_deletes_nothing_while_a_folder_to_keep_cannot_be_read(
    embedded: EmbeddedStore,
    tmp_path: Path,
    content: bytes | OSError | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = decode_cid(embedded.add_folder({"b": b"own", "shared": b"shared"}))
    copy = copied(embedded, tmp_path / "elsewhere", b"x")
    make_unreadable(embedded, own, content, monkeypatch)
    embedded.evict(copy)
    assert f"block {own} cannot be read" in caplog.text
    assert embedded.has(copy)
    assert stored(embedded, leaf(b"x"), leaf(b"shared"), leaf(b"own")) == [True, True, True]
    assert embedded.collect_garbage() == []


@UNREADABLE
def test_a_copy_that_cannot_be_read_holds_up_no_collection(
    embedded: EmbeddedStore,
    tmp_path: Path,
    content: bytes | OSError | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = embedded.add_folder({"b": b"own", "shared": b"shared"})
    damaged, whole = (copied(embedded, tmp_path / "elsewhere", text) for text in (b"x", b"y"))
    embedded.unpin(embedded.add_folder({"d": b"unpinned"}))
    make_unreadable(embedded, decode_cid(damaged), content, monkeypatch)
    embedded.collect_garbage()
    assert [embedded.has(cid) for cid in (own, damaged, whole)] == [True, False, True]
    contents = (b"own", b"shared", b"y", b"unpinned", b"x")
    assert stored(embedded, *map(leaf, contents)) == [True, True, True, False, False]
