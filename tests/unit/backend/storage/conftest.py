from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
import uvicorn

from backend.loopback import listen
from backend.storage.embedded import EmbeddedStore
from backend.storage.kubo import KuboStore
from backend.storage.kubo_rpc import kubo_rpc
from backend.storage.s3 import S3Store
from tests.support.aws import aws_server, new_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.ports.storage import BlobStore


@pytest.fixture
def embedded(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "ipfs", is_durable=False)


@pytest.fixture
def rpc_url(embedded: EmbeddedStore) -> Iterator[str]:
    """A server of Kubo's RPC over the `embedded` store, on a free loopback port."""
    listener = listen()
    server = uvicorn.Server(uvicorn.Config(kubo_rpc(embedded), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def kubo(rpc_url: str, tmp_path: Path) -> Iterator[KuboStore]:
    store = KuboStore(rpc_url, tmp_path / "garbage", tmp_path, timeout_seconds=20)
    yield store
    store.close()


@pytest.fixture(scope="session")
def aws() -> Iterator[str]:
    with aws_server() as url:
        yield url


@pytest.fixture
def bucket(aws: str, monkeypatch: pytest.MonkeyPatch) -> str:
    return new_bucket(aws, monkeypatch)


@pytest.fixture
def s3(bucket: str, tmp_path: Path) -> Iterator[S3Store]:
    store = S3Store(f"s3://{bucket}/some/prefix", tmp_path)
    yield store
    store.close()


@pytest.fixture(params=["embedded", "kubo", "s3"])
def store(request: pytest.FixtureRequest) -> BlobStore:
    """All implementations of the port; behind `kubo` lies the `embedded` fixture's store."""
    found: BlobStore = request.getfixturevalue(request.param)
    return found
