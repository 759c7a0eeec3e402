from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from backend.domain.content import ContentCorrupt, ContentMissing
from backend.domain.errors import InvalidInput, Unavailable
from backend.storage.car_index import HEADER_BYTES, read_header
from backend.storage.s3 import WINDOW_BYTES, S3Store, parse_url
from backend.storage.unixfs import CHUNK_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.ids import Cid
    from backend.storage.embedded import EmbeddedStore

FILES = {"a/large": random.Random(2).randbytes(2 * WINDOW_BYTES + 5), "z": b"last"}
SMALL = {"a": b"x" * (CHUNK_BYTES + 1), "b": b"y"}


@pytest.fixture
def requests(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the requests that the store sends."""
    sent: list[str] = []
    s3._client.meta.events.register("before-call.s3", lambda model, **_: sent.append(model.name))
    return sent


def stored(s3: S3Store, cid: Cid) -> bytes:
    content: bytes = s3._client.get_object(Bucket=s3._bucket, Key=f"some/prefix/{cid}.car")["Body"].read()
    return content


def test_a_folder_is_one_object_that_contains_its_car(s3: S3Store, embedded: EmbeddedStore) -> None:
    cid = s3.add_folder(SMALL)
    listed = s3._client.list_objects_v2(Bucket=s3._bucket)["Contents"]
    assert [each["Key"] for each in listed] == [f"some/prefix/{cid}.car"]
    assert b"".join(embedded.car(embedded.add_folder(SMALL))) == b"".join(s3.car(cid))
    content = stored(s3, cid)
    data, index = read_header(content)
    assert content[data:index] == b"".join(s3.car(cid))


def test_the_same_folder_is_the_same_object_however_it_came(s3: S3Store, embedded: EmbeddedStore) -> None:
    cid = s3.add_folder(SMALL)
    first = stored(s3, cid)
    s3.add_car(cid, embedded.car(embedded.add_folder(SMALL)))
    assert stored(s3, cid) == first


def test_a_large_folder_is_read_in_windows(s3: S3Store, requests: list[str]) -> None:
    cid = s3.add_folder(FILES)
    requests.clear()
    assert s3.read(cid, "a/large") == FILES["a/large"]
    assert requests == ["GetObject"] * 4  # three windows and the index
    requests.clear()
    assert s3.read(cid, "z") == b"last"
    assert requests == ["GetObject"] * 3  # the first window, the index, the file's end


def test_a_small_folder_takes_one_request(s3: S3Store, requests: list[str]) -> None:
    cid = s3.add_folder(SMALL)
    requests.clear()
    assert s3.read(cid, "b") == b"y"
    assert requests == ["GetObject"]


def test_a_bucket_that_is_missing_is_named(s3: S3Store, tmp_path: Path) -> None:
    other = S3Store("s3://absent-bucket", tmp_path)
    for call in (lambda: other.add_folder(SMALL), lambda: other.read(s3.folder_cid(SMALL), "a")):
        with pytest.raises(Unavailable, match="absent-bucket"):
            call()
    with pytest.raises(Unavailable, match="absent-bucket"):
        other.has(s3.folder_cid(SMALL))
    other.close()


def test_an_index_is_read_up_to_a_limit(s3: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    cid = s3.add_folder(FILES)
    monkeypatch.setattr("backend.storage.s3.MAX_INDEX_BYTES", 1000)
    with pytest.raises(ContentCorrupt, match="index"):
        s3.read(cid, "z")


def test_a_section_longer_than_a_block_is_not_read(s3: S3Store, requests: list[str]) -> None:
    """An index that lacks a block makes the section before it longer."""
    cid = s3.add_folder(FILES)
    content = stored(s3, cid)
    _, index = read_header(content)
    longer = content[:index] + bytes(3 * WINDOW_BYTES) + content[index:]
    start = content[: HEADER_BYTES - 8] + (index + 3 * WINDOW_BYTES).to_bytes(8, "little")
    s3._client.put_object(Bucket=s3._bucket, Key=f"some/prefix/{cid}.car", Body=start + longer[HEADER_BYTES:])
    requests.clear()
    with pytest.raises(ContentCorrupt, match="section"):
        s3.read(cid, "z")
    assert requests == ["GetObject"] * 2  # the first window and the index


def test_a_server_that_is_unreachable_is_unavailable(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = S3Store(f"s3://{bucket}", tmp_path)
    for call in (lambda: store.add_folder(SMALL), lambda: store.has(store.folder_cid(SMALL))):
        with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
            call()
    store.close()


def damaged(content: bytes) -> Iterator[bytes]:
    """Objects that are no CARv2 with a right index."""
    _, index = read_header(content)
    yield b""
    yield content[: HEADER_BYTES - 1]
    yield b"x" + content[1:]
    yield content[:27] + b"\xff" * 8 + content[35:]
    yield content[:-1]
    yield content[:index] + b"x" + content[index + 1 :]
    yield content[:-8] + (1 << 40).to_bytes(8, "little")
    yield content[:-8] + content[-48:-40]
    yield content[:HEADER_BYTES] + b"\xff" * 300 + content[HEADER_BYTES + 300 :]


def test_a_damaged_object_is_corrupt(s3: S3Store) -> None:
    cid = s3.add_folder(SMALL)
    for content in damaged(stored(s3, cid)):
        s3._client.put_object(Bucket=s3._bucket, Key=f"some/prefix/{cid}.car", Body=content)
        with pytest.raises((ContentCorrupt, ContentMissing, Unavailable)):
            b"".join(s3.car(cid))


@pytest.mark.parametrize(
    "url", ["bucket", "s3:bucket", "s3://", "https://bucket", "s3://key@bucket", "s3://b?x=1"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="s3://bucket/prefix"):
        parse_url(url)


def test_a_prefix_is_a_folder() -> None:
    assert parse_url("s3://bucket") == parse_url("s3://bucket/") == ("bucket", "")
    assert parse_url("s3://bucket/a/b/") == ("bucket", "a/b/")
