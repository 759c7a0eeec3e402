from __future__ import annotations

from hashlib import sha256
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import httpx
import ipfshttpclient
import pytest
from ipfshttpclient import exceptions
from starlette.responses import Response

from backend.domain.content import Codec, ContentCorrupt, ContentMissing, DecodedCid
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.ids import Cid
from backend.storage.folders import folder_cid
from backend.storage.kubo import KuboStore, to_multiaddr
from backend.storage.kubo_rpc import kubo_rpc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.storage.embedded import EmbeddedStore

pytestmark = pytest.mark.filterwarnings("ignore:The 'strict' parameter:FutureWarning")
ADD = {"cid_version": 1, "raw_leaves": True, "chunker": "size-262144", "opts": {"max-file-links": "174"}}


@pytest.fixture
def client(rpc_url: str) -> Iterator[Any]:
    """The stock client, its version check included."""
    with ipfshttpclient.connect(to_multiaddr(rpc_url)) as connected:
        yield connected


def test_the_stock_client_adds_and_reads_a_file(client: Any, embedded: EmbeddedStore, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"x" * 300_000)
    added = client.add(str(tmp_path / "a.bin"), **ADD)
    assert added["Name"] == "a.bin"
    assert client.cat(added["Hash"]) == b"x" * 300_000
    assert embedded.pins() == [added["Hash"]]


def test_the_stock_client_adds_a_folder_with_the_stores_own_cid(
    client: Any, embedded: EmbeddedStore, tmp_path: Path
) -> None:
    files = {"a.txt": b"a", "sub/b.txt": b"b"}
    for name, content in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content)
    added = client.add(str(tmp_path / "in"), recursive=True, **ADD)
    assert {item["Name"]: item["Hash"] for item in added}["in"] == embedded.folder_cid(files)
    assert client.cat(f"/ipfs/{embedded.folder_cid(files)}/sub/b.txt") == b"b"
    assert embedded.pins() == [embedded.folder_cid(files)]


def test_the_stock_client_pins_lists_and_exports(client: Any, embedded: EmbeddedStore) -> None:
    cid = embedded.add_folder({"a": b"x"})
    assert list(client.pin.ls(type="recursive")["Keys"]) == [cid]
    assert client.dag.export(cid) == b"".join(embedded.car(cid))
    assert client.block.stat(cid)["Size"] == len(embedded.block(cid))
    client.pin.rm(cid)
    with pytest.raises(ipfshttpclient.exceptions.ErrorResponse, match="not pinned"):
        client.pin.rm(cid)
    client.pin.add(cid)
    assert embedded.has(cid)


def test_the_stock_client_frees_what_is_no_longer_pinned(client: Any, embedded: EmbeddedStore) -> None:
    kept, gone = embedded.add_folder({"a": b"x"}), embedded.add_folder({"b": b"y"})
    client.pin.rm(gone)
    freed = {line["Key"]["/"] for line in client.repo.gc()}
    leaf = DecodedCid(Codec.RAW, sha256(b"y").digest())
    assert str(leaf) in freed
    assert len(freed) == 2
    assert embedded.read(kept, "a") == b"x"


def test_other_cids_than_ours_are_refused_by_name(client: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ipfshttpclient.exceptions.ErrorResponse, match="cid-version=1"):
        client.add(str(tmp_path / "a"))


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://127.0.0.1"},
        {"Origin": "null"},
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
    ],
)
def test_web_pages_are_refused(rpc_url: str, headers: dict[str, str]) -> None:
    assert httpx.post(f"{rpc_url}/api/v0/version").status_code == 200
    assert httpx.post(f"{rpc_url}/api/v0/version", headers=headers).status_code == 403


def test_only_post_is_served(rpc_url: str) -> None:
    assert httpx.get(f"{rpc_url}/api/v0/version").status_code == 405


async def test_callers_from_other_machines_are_refused(embedded: EmbeddedStore) -> None:
    transport = httpx.ASGITransport(kubo_rpc(embedded), client=("192.0.2.1", 9))
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.post("/api/v0/version")).status_code == 403


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/etc/x", "%2e%2e/up"])
def test_uploads_cannot_leave_their_folder(rpc_url: str, tmp_path: Path, name: str) -> None:
    answer = httpx.post(
        f"{rpc_url}/api/v0/add?cid-version=1&raw-leaves=true", files={"file": (name, b"x", "text/plain")}
    )
    assert answer.status_code == 500
    assert "not a safe file name" in answer.json()["Message"]


def test_a_car_with_a_wrong_or_missing_block_pins_nothing(rpc_url: str, embedded: EmbeddedStore) -> None:
    cid = embedded.add_folder({"a": b"xyz"})
    car = b"".join(embedded.car(cid))
    embedded.unpin(cid)
    embedded.collect_garbage()
    for bad in (car[:-1] + b"?", car[:-1], car[: -(1 + 36 + 3)], car[1:], b"", b"\xff" * 11):
        answer = httpx.post(f"{rpc_url}/api/v0/dag/import", files={"file": ("", bad)})
        assert answer.status_code == 500, bad
        assert "CAR" in answer.json()["Message"] or "hash" in answer.json()["Message"]
        assert embedded.pins() == []


def test_a_lying_daemon_is_found_out(
    kubo: KuboStore, embedded: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = kubo.add_folder({"a": b"x"})
    monkeypatch.setattr(type(embedded), "block", lambda _self, _cid: b"something else")
    with pytest.raises(ContentCorrupt):
        kubo.block(cid)
    with pytest.raises(ContentCorrupt):
        kubo.read(cid, "a")


def test_a_daemon_that_pins_something_else_is_found_out(
    kubo: KuboStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Cid(str(DecodedCid(Codec.DAG_PB, sha256(b"").digest())))
    monkeypatch.setattr("backend.storage.embedded.EmbeddedStore.import_car", lambda _self, _car: other)
    with pytest.raises(ContentCorrupt):
        kubo.add_folder({"a": b"x"})


def test_content_that_a_daemon_does_not_find_in_time_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A daemon searches for it without an end."""
    store = KuboStore("http://127.0.0.1:9", tmp_path / "garbage", tmp_path, timeout_seconds=2)

    def search(_cid: str, **_: float) -> bytes:
        raise exceptions.TimeoutError(None)

    monkeypatch.setattr(store._client.block, "get", search)
    with pytest.raises(ContentMissing, match="in time"):
        store.read(folder_cid({"a": b"x"}), "a")
    store.close()


def test_a_folder_whose_blocks_come_just_in_time_is_not_waited_for(
    kubo: KuboStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that has a block returns it at once; a peer may send each only after most of a minute."""
    cid = kubo.add_folder({f"{number}": bytes([number]) for number in range(9)})
    ticks, get = count(step=60), kubo._client.block.get
    timeouts: list[float] = []

    def slow(cid: str, timeout: float) -> Any:
        timeouts.append(timeout)
        return get(cid, timeout=timeout)

    monkeypatch.setattr(kubo._client.block, "get", slow)
    assert len(kubo.names(cid)) == 9
    timeouts.clear()
    monkeypatch.setattr("backend.storage.kubo.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    with pytest.raises(ContentMissing, match=r"IPFS is too slow: \d+ bytes in 180 s"):
        kubo.names(cid)
    assert [round(timeout) for timeout in timeouts] == [20, 20, 20]
    monkeypatch.setattr("backend.storage.kubo.READ_SECONDS", 70)
    with pytest.raises(ContentMissing):
        kubo.names(cid)
    assert timeouts[3:] == [20, pytest.approx(10, abs=0.1)]


def test_what_comes_fast_enough_may_take_long(kubo: KuboStore, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytes(range(256)) * 8192
    cid = kubo.add_folder({"a": content})
    ticks = count()  # a second for each block of 256 KiB
    monkeypatch.setattr("backend.storage.kubo.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    monkeypatch.setattr("backend.storage.kubo.READ_SECONDS", 3)
    monkeypatch.setattr("backend.storage.kubo.MIN_READ_RATE", 256 << 10)
    assert kubo.read(cid, "a") == content


def test_a_connection_that_breaks_within_a_block_is_unavailable(
    kubo: KuboStore, embedded: EmbeddedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    cid = embedded.add_folder({"a": b"x"})

    class CutOff(Response):
        def __init__(self, **parts: Any) -> None:
            super().__init__(**parts)
            self.headers["content-length"] = "1000"

    monkeypatch.setattr("backend.storage.kubo_rpc.Response", CutOff)
    with pytest.raises(Unavailable, match="not reachable"):
        kubo.read(cid, "a")


def test_a_folder_that_is_pinned_stays_so_when_its_files_are_added_again(
    client: Any, embedded: EmbeddedStore, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a").write_bytes(b"x")
    cid = embedded.add_directory(folder)
    client.add(str(folder / "a"), cid_version=1, raw_leaves=True)
    assert embedded.has(cid)


def test_no_daemon_is_unavailable(tmp_path: Path) -> None:
    store = KuboStore("http://127.0.0.1:9", tmp_path / "garbage", tmp_path, timeout_seconds=2)
    with pytest.raises(Unavailable):
        store.add_folder({"a": b"x"})
    store.close()


@pytest.mark.parametrize(
    ("address", "multiaddr"),
    [
        ("http://127.0.0.1:5001", "/ip4/127.0.0.1/tcp/5001/http"),
        ("https://ipfs.example/", "/dns/ipfs.example/tcp/443/https"),
        ("http://[::1]:5001", "/ip6/::1/tcp/5001/http"),
        ("/dns/localhost/tcp/5001/http", "/dns/localhost/tcp/5001/http"),
    ],
)
def test_addresses_may_be_urls_or_multiaddrs(address: str, multiaddr: str) -> None:
    assert to_multiaddr(address) == multiaddr


@pytest.mark.parametrize("address", ["", "localhost:5001", "ftp://x", "http://", "http://x/api/v0"])
def test_malformed_addresses_are_refused(address: str) -> None:
    with pytest.raises(InvalidInput):
        to_multiaddr(address)
