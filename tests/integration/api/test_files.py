"""The stock `openai` client's `files` calls, against the API."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI

from backend.domain.ids import DatanetId
from backend.domain.registries import Datanet
from backend.services.contribute.transfers import Transfers
from tests.support.market import some_account, some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI
    from openai.types import FileObject

    from tests.integration.api.conftest import Api

ROWS = b'{"completion":"A letter.","prompt":"What is a?"}\n'


@pytest.fixture
def client(api: Api) -> Iterator[OpenAI]:
    known = Datanet(DatanetId(7), some_account("curator"), "docs", some_hash("description"), 4)
    api.installation.view.datanet_list.append(known)
    with OpenAI(base_url=f"{api.url}/v1", api_key=api.session, max_retries=0) as client:
        yield client


def create(client: OpenAI, rows: bytes = ROWS, **fields: Any) -> FileObject:
    about = {"datanet": 7, "licence": "MIT"} | fields
    return client.files.create(file=("letters.jsonl", rows), purpose="fine-tune", extra_body=about)


def test_a_file_is_sent_read_and_taken_back_by_the_stock_client(client: OpenAI, api: Api) -> None:
    file = create(client)
    assert (file.object, file.purpose, file.status) == ("file", "fine-tune", "processed")
    assert (file.filename, file.bytes) == ("letters.jsonl", len(ROWS))
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).read() == ROWS
    with api.http(api.session) as http:  # the same thing under our name: it can be signed and submitted
        assert http.get(f"/v1/contributions/{file.id}").json()["state"] == "draft"
    assert client.files.delete(file.id).deleted
    with pytest.raises(NotFoundError):
        client.files.retrieve(file.id)
    assert client.files.list().data == []


def test_files_are_listed_page_by_page(client: OpenAI) -> None:
    made = {create(client, ROWS.replace(b"a?", name)).id for name in (b"b?", b"c?", b"d?")}
    found = [file.id for file in client.files.list(limit=2, purpose="fine-tune")]
    assert len(found) == len(made)
    assert set(found) == made
    assert client.files.list(purpose="vision").data == []


def test_withdrawn_files_end_no_page(client: OpenAI, api: Api) -> None:
    made = [create(client, ROWS.replace(b"a?", name)).id for name in (b"b?", b"c?", b"d?", b"e?")]
    for file in made[2:]:
        client.files.delete(file)
    assert [file.id for file in client.files.list(limit=2)] == made[1::-1]
    for file in client.files.list(limit=1):  # the page after a file that is withdrawn meanwhile
        client.files.delete(file.id)
    assert client.files.list().data == []


def test_a_file_is_refused_before_it_is_stored_if_the_disk_is_nearly_full(
    client: OpenAI, api: Api, server: tuple[FastAPI, str], tmp_path: Path
) -> None:
    transfers = Transfers(tmp_path, 1000, reserved=1 << 60)
    server[0].state.services = replace(api.installation.services, transfers=transfers)
    with pytest.raises(APIStatusError) as refusal:
        create(client)
    assert (refusal.value.status_code, refusal.value.code) == (507, "disk_full")


def test_unsound_rows_say_where(client: OpenAI) -> None:
    file = create(client, ROWS + b"{\n")
    assert file.status == "error"
    assert file.status_details is not None
    assert file.status_details.startswith("line 2: ")
    with pytest.raises(NotFoundError):
        client.files.content(file.id)


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"licence": "mine"}, "licence"), ({"datanet": 0}, "datanet"), ({"colour": "red"}, "colour")],
)
def test_a_file_without_its_place_is_refused(client: OpenAI, fields: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequestError) as refusal:
        create(client, **fields)
    assert refusal.value.param == param


def test_a_form_without_a_file_is_refused(api: Api) -> None:
    headers = {"authorization": f"Bearer {api.session}"}
    for body in ({"json": {}}, {"files": {"other": ("a", b"")}}):
        answer = httpx.post(f"{api.url}/v1/files", headers=headers, **body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
