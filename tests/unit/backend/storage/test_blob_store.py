"""What every `BlobStore` promises, held against all implementations."""

from __future__ import annotations

import io
import random
from hashlib import sha256
from typing import TYPE_CHECKING

import aleph_cid
import pytest

from backend.domain.content import (
    Codec,
    ContentCorrupt,
    ContentMissing,
    ContentUnsafe,
    DecodedCid,
    MalformedCid,
    cid_digest,
    cid_of,
    decode_cid,
)
from backend.domain.errors import Conflict, Unavailable
from backend.domain.ids import Cid
from backend.storage.car import read_car
from backend.storage.dagpb import Kind, Link, Node, encode
from backend.storage.embedded import EmbeddedStore
from backend.storage.flatfs import key_of
from backend.storage.s3 import S3Store
from backend.storage.unixfs import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.ports.storage import BlobStore
    from backend.storage.kubo import KuboStore

pytestmark = pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning")

FILES: dict[str, bytes | Path] = {
    "adapter.bin": random.Random(1).randbytes(CHUNK_BYTES * 2 + 7),
    "empty": b"",
    "notes/ä.txt": b"hello",
    "notes/deep/one": b"1",
}
ABSENT = Cid("bafybeihb3bajvk2w6e4o6dhtum4behsqco5ref4q33h4az56nv5klm26oi")


def plant(embedded: EmbeddedStore, node: Node) -> DecodedCid:
    """Make a block by hand, as a hostile publisher would."""
    block = encode(node)
    cid = DecodedCid(Codec.DAG_PB, sha256(block).digest())
    embedded._blocks.put(cid, block)
    return cid


def publish(store: BlobStore, embedded: EmbeddedStore, root: DecodedCid) -> Cid:
    """Bring a tree of planted blocks into the store."""
    cid = Cid(str(root))
    store.add_car(cid, embedded.car(cid))
    return cid


def damage(store: BlobStore, embedded: EmbeddedStore, chunk: bytes) -> None:
    """Flip a bit of a stored chunk."""
    broken = chunk[:-1] + bytes([chunk[-1] ^ 1])
    if isinstance(store, S3Store):
        place = {"Bucket": store._bucket, "Key": f"{store._prefix}{store.folder_cid(FILES)}.car"}
        stored = store._client.get_object(**place)["Body"].read()
        assert chunk in stored
        store._client.put_object(**place, Body=stored.replace(chunk, broken))
        return
    key = key_of(DecodedCid(Codec.RAW, sha256(chunk).digest()))
    (embedded._root / "blocks" / key[-3:-1] / f"{key}.data").write_bytes(broken)


def test_a_folder_comes_back_as_it_went_in(store: BlobStore, tmp_path: Path) -> None:
    cid = store.add_folder(FILES)
    assert store.has(cid)
    assert store.names(cid) == {name: len(content) for name, content in FILES.items()}  # type: ignore[arg-type]
    assert store.read(cid, "notes/ä.txt") == b"hello"
    assert store.read(cid, "empty") == b""
    assert b"".join(store.open(cid, "adapter.bin")) == FILES["adapter.bin"]
    store.fetch_folder(cid, tmp_path / "new" / "out")
    assert store.add_directory(tmp_path / "new" / "out") == cid


def test_an_independent_implementation_gives_the_same_cid(store: BlobStore, tmp_path: Path) -> None:
    for name, content in FILES.items():
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)  # type: ignore[arg-type]
    expected = aleph_cid.hash_folder(tmp_path / "in")
    assert store.add_directory(tmp_path / "in") == expected
    assert store.add_folder({name: tmp_path / "in" / name for name in FILES}) == expected
    assert store.folder_cid(FILES) == expected


def test_folder_cid_stores_nothing(store: BlobStore, embedded: EmbeddedStore) -> None:
    cid = store.folder_cid(FILES)
    assert not store.has(cid)
    assert list(embedded._blocks.keys()) == []


def test_an_empty_folder_is_content_too(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "in" / "hollow").mkdir(parents=True)
    cid = store.add_directory(tmp_path / "in")
    store.fetch_folder(cid, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["hollow"]
    assert store.names(store.add_folder({})) == {}


def test_the_chains_digest_and_the_cid_name_the_same_folder(store: BlobStore) -> None:
    cid = store.add_folder(FILES)
    assert cid_of(cid_digest(cid)) == cid


def test_unpin_forgets_the_folder_and_may_be_repeated(store: BlobStore) -> None:
    cid = store.add_folder(FILES)
    store.unpin(cid)
    store.unpin(cid)
    assert not store.has(cid)


def test_adding_twice_is_harmless(store: BlobStore) -> None:
    assert store.add_folder(FILES) == store.add_folder(FILES)


def test_the_car_of_a_folder_imports_into_another_store(store: BlobStore, tmp_path: Path) -> None:
    cid = store.add_folder(FILES)
    (tmp_path / "tree.car").write_bytes(b"".join(store.car(cid)))
    assert aleph_cid.read_carv1_root(tmp_path / "tree.car") == cid


def test_one_block_can_be_asked_for(store: BlobStore) -> None:
    cid = store.add_folder({"a": b"x"})
    assert sha256(store.block(cid)).digest() == decode_cid(cid).digest


def test_the_cids_of_a_folder_are_those_of_its_car(store: BlobStore) -> None:
    cid = store.add_folder(FILES | {"long": b"x" * 600_000})
    _, blocks = read_car(io.BytesIO(b"".join(store.car(cid))))
    assert sorted(store.cids(cid)) == sorted(str(one) for one, _ in blocks)


def test_absent_content_is_missing(store: BlobStore, tmp_path: Path) -> None:
    cid = store.add_folder(FILES)
    for name in ("nope", "notes/nope", "empty/x", "notes", "../notes", "/"):
        with pytest.raises(ContentMissing):
            store.read(cid, name)
    with pytest.raises(ContentMissing):
        store.block(ABSENT)
    with pytest.raises(ContentMissing):
        store.fetch_folder(ABSENT, tmp_path / "out")
    assert not store.has(ABSENT)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "cid", ["", "x", "Qm" + "a" * 44, ABSENT[:-1], ABSENT.upper(), ABSENT[:-1] + "j", "b" + "é" * 58]
)
def test_malformed_cids_are_refused(store: BlobStore, cid: str) -> None:
    with pytest.raises(MalformedCid):
        store.block(Cid(cid))


def test_a_damaged_block_is_never_handed_on(
    store: BlobStore, embedded: EmbeddedStore, tmp_path: Path
) -> None:
    cid = store.add_folder(FILES)
    chunk = FILES["adapter.bin"][CHUNK_BYTES : 2 * CHUNK_BYTES]  # type: ignore[index]
    damage(store, embedded, chunk)
    # Behind the RPC the daemon itself notices first, so the client can only say that it was refused.
    with pytest.raises((ContentCorrupt, Unavailable), match="does not hash"):
        store.read(cid, "adapter.bin")
    with pytest.raises((ContentCorrupt, Unavailable), match="does not hash"):
        store.fetch_folder(cid, tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == []
    store.add_folder(FILES)
    assert store.read(cid, "adapter.bin") == FILES["adapter.bin"]


@pytest.mark.parametrize(
    "name", ["..", ".", "", "a/../b", "/a", "a//b", "a\\b", "c:", "a\0b", "a\nb", "x" * 256, "\ud800"]
)
def test_unsafe_names_do_not_go_in(store: BlobStore, name: str) -> None:
    with pytest.raises(ContentUnsafe):
        store.add_folder({name: b""})


def test_a_file_below_a_file_does_not_go_in(store: BlobStore) -> None:
    for files in ({"a": b"", "a/b": b""}, {"a/b": b"", "a": b""}):
        with pytest.raises(ContentUnsafe):
            store.add_folder(files)


def test_links_on_disk_do_not_go_in(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "link").symlink_to("/etc/passwd")
    with pytest.raises(ContentUnsafe):
        store.add_directory(tmp_path / "in")


@pytest.mark.parametrize("name", ["..", ".", "", "../up", "a/b", "a\\b", "/etc"])
def test_unsafe_names_do_not_come_out(
    store: BlobStore, embedded: EmbeddedStore, tmp_path: Path, name: str
) -> None:
    leaf = decode_cid(embedded.add_folder({"a": b"x"}))
    evil = publish(store, embedded, plant(embedded, Node(Kind.FOLDER, (Link(name, leaf, 1),))))
    with pytest.raises(ContentUnsafe):
        store.fetch_folder(evil, tmp_path / "out")
    with pytest.raises(ContentUnsafe):
        store.read(evil, "a")
    assert list(tmp_path.glob("*out*")) == []


def test_one_name_twice_does_not_come_out(store: BlobStore, embedded: EmbeddedStore, tmp_path: Path) -> None:
    leaf = decode_cid(embedded.add_folder({}))
    twice = plant(embedded, Node(Kind.FOLDER, (Link("a", leaf, 1), Link("a", leaf, 1))))
    with pytest.raises(ContentUnsafe):
        store.fetch_folder(publish(store, embedded, twice), tmp_path / "out")


def test_a_folder_over_the_callers_limit_writes_nothing(store: BlobStore, tmp_path: Path) -> None:
    cid = store.add_folder(FILES)
    size = sum(store.names(cid).values())
    with pytest.raises(ContentUnsafe):
        store.fetch_folder(cid, tmp_path / "out", max_bytes=size - 1)
    assert list(tmp_path.glob("*out*")) == []
    store.fetch_folder(cid, tmp_path / "out", max_bytes=size)


def test_a_file_that_unfolds_beyond_its_size_is_refused(store: BlobStore, embedded: EmbeddedStore) -> None:
    added = embedded.entries(embedded.add_folder({"a": b"x" * 10}))[0].cid
    for sizes, size in (((10,) * 174, 10), ((0,) * 174, 0), ((5,) * 174, 870), ((10,), 1740)):
        bomb = plant(embedded, Node(Kind.FILE, tuple(Link("", added, 10) for _ in range(174)), size, sizes))
        folder = plant(embedded, Node(Kind.FOLDER, (Link("bomb", bomb, 1),)))
        with pytest.raises(ContentCorrupt):
            store.read(publish(store, embedded, folder), "bomb")


def test_folders_that_unfold_without_end_are_refused(
    store: BlobStore, embedded: EmbeddedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backend.storage.reader.MAX_ENTRIES", 200)
    below = decode_cid(embedded.add_folder({}))
    for _ in range(10):
        below = plant(embedded, Node(Kind.FOLDER, tuple(Link(str(i), below, 1) for i in range(5))))
    with pytest.raises(ContentUnsafe):
        store.fetch_folder(publish(store, embedded, below), tmp_path / "out")


def test_fetching_over_something_that_exists_is_refused(store: BlobStore, tmp_path: Path) -> None:
    cid = store.add_folder(FILES)
    with pytest.raises(Conflict):
        store.fetch_folder(cid, tmp_path)


def test_an_untrusted_car_is_stored_if_it_is_the_requested_folder(store: BlobStore, tmp_path: Path) -> None:
    elsewhere = EmbeddedStore(tmp_path / "elsewhere", is_durable=False)
    cid = elsewhere.add_folder(FILES)
    store.add_car(cid, elsewhere.car(cid))
    assert store.has(cid)
    assert {name: store.read(cid, name) for name in FILES} == FILES
    store.add_car(cid, iter([b"".join(elsewhere.car(cid))]))  # again, and in one piece


def test_a_car_of_anything_else_is_not_kept(store: BlobStore, tmp_path: Path) -> None:
    elsewhere = EmbeddedStore(tmp_path / "elsewhere", is_durable=False)
    cid, other = elsewhere.add_folder(FILES), elsewhere.add_folder({"other": b"1"})
    pieces = list(elsewhere.car(cid))
    *_, foreign = elsewhere.car(other)

    def cars() -> Iterator[list[bytes]]:
        yield list(elsewhere.car(other))
        yield pieces[:-1]
        yield [*pieces, foreign]
        yield [pieces[0], *pieces[2:]]
        yield [*pieces, b"\x05abc"]
        yield []

    for car in cars():
        with pytest.raises(ContentCorrupt):
            store.add_car(cid, car)
        assert not store.has(cid)


def test_what_is_forgotten_is_not_kept_and_its_neighbours_are(store: BlobStore) -> None:
    cid, other = store.add_folder(FILES), store.add_folder({"empty": b"", "other": b"1"})
    store.forget(cid)
    store.forget(cid)
    assert not store.has(cid)
    assert store.has(other)
    assert store.read(other, "other") == b"1"


def test_forgotten_blocks_are_deleted_and_what_the_daemon_caches_only_then(
    kubo: KuboStore, embedded: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid, kept = kubo.add_folder(FILES), kubo.add_folder({"empty": b"", "other": b"1"})
    cached = embedded.add_folder({"cached": b"2"})
    embedded.unpin(cached)
    kubo.delete_forgotten()
    assert embedded.block(cached), "nothing was forgotten: no collection"

    kubo.forget(cid)
    assert embedded.read(cid, "notes/deep/one") == b"1"

    def fail() -> list[Cid]:
        raise Unavailable("busy")

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "collect_garbage", fail)
        with pytest.raises(Unavailable):
            kubo.delete_forgotten()
    kubo.delete_forgotten()
    for gone in (cid, cached):
        with pytest.raises(ContentMissing):
            embedded.block(gone)
    assert kubo.read(kept, "other") == b"1"


def test_what_is_forgotten_during_a_collection_is_deleted_by_the_next_one(
    kubo: KuboStore, embedded: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = kubo.add_folder({"a": b"1"}), kubo.add_folder({"b": b"2"})
    kubo.forget(first)
    collect = embedded.collect_garbage

    def collect_and_forget() -> list[Cid]:
        found = collect()
        kubo.forget(second)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(embedded, "collect_garbage", collect_and_forget)
        kubo.delete_forgotten()
    assert embedded.block(second)
    kubo.delete_forgotten()
    with pytest.raises(ContentMissing):
        embedded.block(second)


def copy_of(files: dict[str, bytes | Path], store: BlobStore, folder: Path) -> Cid:
    """Bring a folder of another store into this one, as a copy."""
    elsewhere = EmbeddedStore(folder, is_durable=False)
    cid = elsewhere.add_folder(files)
    store.add_copy(cid, elsewhere.car(cid))
    return cid


def test_a_copy_is_stored_like_any_other_folder(store: BlobStore, tmp_path: Path) -> None:
    cid = copy_of(FILES, store, tmp_path / "elsewhere")
    assert store.has(cid)
    assert {name: store.read(cid, name) for name in FILES} == FILES
    assert store.keep(cid)
    store.evict(cid)
    assert store.read(cid, "notes/deep/one") == b"1"


def test_what_is_not_stored_cannot_be_kept(store: BlobStore) -> None:
    assert not store.keep(ABSENT)
    assert not store.has(ABSENT)


def test_what_is_unpinned_during_a_collection_is_deleted_by_the_next_one(
    kubo: KuboStore, embedded: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = kubo.add_folder({"a": b"1"})
    unpin = kubo.unpin

    def unpin_after_collection(forgotten: Cid) -> None:
        kubo.delete_forgotten()
        unpin(forgotten)

    with monkeypatch.context() as patched:
        patched.setattr(kubo, "unpin", unpin_after_collection)
        kubo.forget(cid)
    assert embedded.block(cid)
    kubo.delete_forgotten()
    with pytest.raises(ContentMissing):
        embedded.block(cid)


def test_two_processes_may_collect_at_once(
    kubo: KuboStore, embedded: EmbeddedStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    collect = embedded.collect_garbage

    def collect_elsewhere_first() -> list[Cid]:
        monkeypatch.setattr(embedded, "collect_garbage", collect)
        kubo.delete_forgotten()
        return collect()

    kubo.forget(kubo.add_folder({"a": b"1"}))
    monkeypatch.setattr(embedded, "collect_garbage", collect_elsewhere_first)
    kubo.delete_forgotten()
    assert not (tmp_path / "garbage").exists()
