"""Resumable transfers to a real server, by the reference tus client and by raw requests."""

from __future__ import annotations

import hashlib
import io
import socket
import time
from base64 import b64encode
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
import pytest
from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

from backend.api.app import MAX_TRANSFER_CHUNKS
from backend.domain.ids import DatanetId
from backend.domain.registries import Datanet
from tests.integration.api.conftest import sign_in
from tests.support.contributions import jsonl
from tests.support.fakes import some_key
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from fastapi import FastAPI
    from tusclient.uploader import Uploader

    from backend.api.uploads import UploadSlots
    from tests.integration.api.conftest import Api

ROWS = jsonl(*({"text": f"{number} is a number"} for number in range(20)))
TUS = {"Tus-Resumable": "1.0.0"}
PIECE = TUS | {"Content-Type": "application/offset+octet-stream"}
WHERE = {"datanet": 7, "name": "numbers", "licence": "MIT"}


@pytest.fixture(autouse=True)
def datanet(api: Api) -> None:
    known = Datanet(DatanetId(7), some_account("curator"), "docs", some_hash("description"), 4)
    api.installation.view.datanet_list.append(known)


def uploader(api: Api, content: bytes = ROWS, **options: Any) -> Uploader:
    client = TusClient(f"{api.url}/v1/transfers", headers={"Authorization": f"Bearer {api.session}"})
    metadata = {"filename": "rows.jsonl", "sha256": hashlib.sha256(ROWS).hexdigest()}
    settings = {"metadata": metadata, "upload_checksum": True, "chunk_size": 100} | options
    return client.uploader(file_stream=io.BytesIO(content), **settings)


def created(api: Api, num_bytes: int = len(ROWS)) -> str:
    """Its path."""
    with api.http(api.session) as http:
        answer = http.post("/v1/transfers", headers=TUS | {"Upload-Length": str(num_bytes)})
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def contribute(api: Api, path: str, **changes: Any) -> httpx.Response:
    with api.http(api.session) as http:
        return http.post("/v1/contributions", params=WHERE | {"transfer": path.rpartition("/")[2]} | changes)


def offset_of(api: Api, path: str) -> int:
    with api.http(api.session) as http:
        return int(http.head(path, headers=TUS).headers["upload-offset"])


def test_the_protocols_client_resumes_where_it_was_interrupted_and_the_rows_are_contributed(api: Api) -> None:
    first = uploader(api)
    first.upload_chunk()
    first.upload_chunk()
    again = uploader(api, url=first.url)
    assert again.offset == 200
    again.upload()
    with api.http(api.session) as http:
        (listed,) = http.get("/v1/transfers").json()["data"]
    assert (listed["name"], listed["offset"], listed["num_bytes"]) == ("rows.jsonl", len(ROWS), len(ROWS))
    upload = contribute(api, first.url)
    assert (upload.status_code, upload.json()["state"]) == (201, "draft")
    assert upload.json()["report"]["num_rows"] == 20
    assert contribute(api, first.url).json()["error"]["code"] == "not_found", "a draft has the rows"


def test_resuming_with_other_bytes_is_found_out(api: Api) -> None:
    first = uploader(api)
    first.upload_chunk()
    uploader(api, ROWS.replace(b"number", b"lumber"), url=first.url).upload()
    refused = contribute(api, first.url)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "digest_mismatch")
    with api.http(api.session) as http:
        assert http.get("/v1/transfers").json()["data"] == []
        assert http.get("/v1/contributions").json()["data"] == []


def test_two_clients_on_one_transfer_do_not_mix(api: Api) -> None:
    first = uploader(api)
    first.set_url(first.create_url())
    second = uploader(api, ROWS.replace(b"number", b"lumber"), url=first.url)
    first.upload_chunk()
    with pytest.raises(TusCommunicationError) as caught:
        second.upload_chunk()
    assert caught.value.status_code == 409
    first.upload()
    assert contribute(api, first.url).json()["state"] == "draft"


def test_two_transfers_of_one_file_are_two_drafts(api: Api) -> None:
    first, second = uploader(api), uploader(api)
    for each in (first, second) * (len(ROWS) // 100 + 1):
        if each.offset < len(ROWS):
            each.upload_chunk()
    assert [contribute(api, each.url).json()["state"] for each in (first, second)] == ["draft"] * 2


def test_a_connection_that_breaks_leaves_what_came(api: Api) -> None:
    path = created(api)
    address = urlsplit(api.url)
    with closing(socket.create_connection((address.hostname or "", address.port or 0))) as raw:
        head = [f"PATCH {path} HTTP/1.1", "Host: a", f"Authorization: Bearer {api.session}"]
        head += [f"{name}: {value}" for name, value in PIECE.items()]
        head += ["Upload-Offset: 0", f"Content-Length: {len(ROWS)}", "", ""]
        raw.sendall("\r\n".join(head).encode() + ROWS[:150])
        time.sleep(0.1)
    deadline = time.monotonic() + 10
    while offset_of(api, path) < 150:
        assert time.monotonic() < deadline
    status = httpx.codes.LOCKED  # until the server has noticed that the connection ended
    while status == httpx.codes.LOCKED:
        assert time.monotonic() < deadline
        with api.http(api.session) as http:
            rest = PIECE | {"Upload-Offset": "150"}
            status = http.patch(path, headers=rest, content=ROWS[150:]).status_code
    assert status == httpx.codes.NO_CONTENT
    assert contribute(api, path).json()["report"]["num_rows"] == 20


def test_nobody_sends_a_byte_before_it_is_known_who_they_are(api: Api) -> None:
    path = created(api)
    address = urlsplit(api.url)
    with closing(socket.create_connection((address.hostname or "", address.port or 0))) as raw:
        head = [f"PATCH {path} HTTP/1.1", "Host: a", *(f"{name}: {value}" for name, value in PIECE.items())]
        head += ["Upload-Offset: 0", "Content-Length: 500", "Expect: 100-continue", "", ""]
        raw.sendall("\r\n".join(head).encode())
        raw.settimeout(10)
        assert raw.recv(1000).startswith(b"HTTP/1.1 401 ")


def test_transfers_are_their_owners_alone(api: Api) -> None:
    path = created(api)
    with api.http(sign_in(api.url, some_key("curious"))) as http:
        assert http.head(path, headers=TUS).status_code == 404
        assert http.patch(path, headers=PIECE | {"Upload-Offset": "0"}, content=b"x").status_code == 404
        assert http.delete(path, headers=TUS).status_code == 404
        assert http.get("/v1/transfers").json()["data"] == []
    with api.http() as http:
        assert http.get("/v1/transfers").status_code == 403, "keys live in many places"


@pytest.mark.parametrize(
    ("changes", "content", "status", "code"),
    [
        ({"Tus-Resumable": "0.2.2"}, b"x", 412, "unknown_tus_version"),
        ({"Content-Type": "text/plain"}, b"x", 415, "unsupported_media_type"),
        ({"Upload-Offset": "3"}, b"x", 409, "offset_mismatch"),
        ({"Upload-Offset": "-1"}, b"x", 400, "invalid_parameter"),
        ({"Upload-Checksum": "sha256 AAAA"}, b"x", 460, "checksum_mismatch"),
        ({"Upload-Checksum": "md5 AAAA"}, b"x", 400, "invalid_input"),
        ({"Upload-Checksum": "sha256 é"}, b"x", 400, "invalid_input"),
        ({}, ROWS + b"x", 413, "upload_too_large"),
    ],
)
def test_a_piece_that_does_not_fit_is_refused_by_name(
    api: Api, changes: dict[str, str], content: bytes, status: int, code: str
) -> None:
    path = created(api)
    headers = {
        name: value.encode("latin-1") for name, value in (PIECE | {"Upload-Offset": "0"} | changes).items()
    }
    with api.http(api.session) as http:
        answer = http.patch(path, headers=headers, content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["tus-resumable"] == "1.0.0"
    assert offset_of(api, path) == 0


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 400, "missing_parameter"),
        ({"Upload-Length": "1001"}, 413, "upload_too_large"),
        ({"Upload-Length": "1", "Upload-Metadata": "sha256 !"}, 400, "invalid_input"),
        ({"Upload-Length": "1", "Upload-Metadata": "sha256 AAAA"}, 400, "invalid_input"),
        ({"Upload-Length": "1", "Upload-Metadata": "a" * 1025}, 400, "invalid_input"),
    ],
)
def test_what_cannot_be_taken_is_refused_before_it_is_sent(
    api: Api, headers: dict[str, str], status: int, code: str
) -> None:
    with api.http(api.session) as http:
        answer = http.post("/v1/transfers", headers=TUS | headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert http.get("/v1/transfers").json()["data"] == []


def test_what_is_spoken_here_is_told_to_anybody(api: Api) -> None:
    answer = httpx.options(f"{api.url}/v1/transfers")
    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-extension"] == "creation,checksum,expiration,termination"
    assert (answer.headers["tus-max-size"], answer.headers["tus-checksum-algorithm"]) == (
        "1000",
        "sha256,sha1",
    )


def test_a_transfer_can_be_asked_for_and_deleted(api: Api) -> None:
    metadata = f"filename {b64encode('zahlen-ä.jsonl'.encode()).decode()},is_public"
    with api.http(api.session) as http:
        made = http.post("/v1/transfers", headers=TUS | {"Upload-Length": "9", "Upload-Metadata": metadata})
        path = made.headers["location"]
        asked = http.head(path, headers=TUS)
        assert (asked.headers["upload-length"], asked.headers["upload-metadata"]) == ("9", metadata)
        assert asked.headers["cache-control"] == "no-store"
        assert asked.headers["upload-expires"].endswith(" GMT")
        assert made.json()["name"] == "zahlen-ä.jsonl"
        assert http.delete(path, headers=TUS).status_code == 204
        assert http.head(path, headers=TUS).status_code == 404


def test_only_a_whole_transfer_is_contributed_and_nothing_beside_it(api: Api) -> None:
    path = created(api)
    assert contribute(api, path).json()["error"]["code"] == "transfer_unfinished"
    with api.http(api.session) as http:
        both = http.post("/v1/contributions", params=WHERE | {"transfer": "transfer-1"}, content=ROWS)
    assert (both.status_code, both.json()["error"]["param"]) == (400, "transfer")


def test_rows_that_are_refused_can_be_checked_again_without_being_sent_again(api: Api) -> None:
    bad = uploader(api, ROWS + b"nope\n", metadata={})
    bad.upload()
    assert contribute(api, bad.url, licence="nonsense").status_code == 400
    for _ in range(2):
        upload = contribute(api, bad.url).json()
        assert (upload["state"], upload["report"]["defect_counts"]) == ("invalid", {"malformed_json": 1})


def test_pieces_have_slots_of_their_own(api: Api, server: tuple[FastAPI, str]) -> None:
    slots: UploadSlots = server[0].state.transfer_slots
    path = created(api)
    with ExitStack() as others, api.http(api.session) as http:
        for number in range(MAX_TRANSFER_CHUNKS):
            others.enter_context(slots.take(f"account {number}", f"address {number}"))
        busy = http.patch(path, headers=PIECE | {"Upload-Offset": "0"}, content=ROWS)
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "uploads_busy")
