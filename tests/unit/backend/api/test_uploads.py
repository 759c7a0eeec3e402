from __future__ import annotations

import resource
import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from starlette.requests import Request

from backend.api.uploads import UploadsBusy, UploadSlots, open_upload_form
from backend.disk.space import DiskSpace
from backend.domain.errors import DiskFull, InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

HEAD = b'--x\r\nContent-Disposition: form-data; name="file"; filename="rows"\r\n\r\n'


def read_form(body: bytes, space: DiskSpace) -> bytes:
    """Content of the form's file."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def read() -> bytes:
        headers = [(b"content-type", b"multipart/form-data; boundary=x")]
        request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
        async with open_upload_form(request, space) as form:
            return b"".join(form.content)

    return anyio.run(read)


def test_neither_an_account_nor_an_address_has_more_than_a_quarter_of_the_slots() -> None:
    slots = UploadSlots(8)
    with slots.take("a", "1"):
        with slots.take("a", "2"), slots.take("b", "1"):
            for account, address in (("a", "3"), ("c", "1")):
                with pytest.raises(UploadsBusy, match="has 2 uploads running"), slots.take(account, address):
                    pass
            with slots.take("b", "2"):
                pass
        with slots.take("a", "1"):
            pass


def test_an_upload_that_fails_frees_its_slot() -> None:
    slots = UploadSlots(4)
    for _ in range(2):
        with pytest.raises(ValueError, match="the upload"), slots.take("a", "1"):
            raise ValueError("the upload")
    with ExitStack() as all_slots:
        for number in range(4):
            all_slots.enter_context(slots.take(f"account {number}", f"address {number}"))
        with pytest.raises(UploadsBusy, match="Too many"), slots.take("a", "1"):
            pass


def test_the_file_of_a_form_waits_in_the_home_and_not_in_the_temporary_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    rows = b"a row\n" * 500_000
    assert read_form(HEAD + rows + b"\r\n--x--\r\n", DiskSpace(tmp_path / "home")) == rows
    assert list((tmp_path / "home").iterdir()) == []


def test_a_form_leaves_the_reserve_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(DiskFull):
        read_form(HEAD + b"rows\r\n--x--\r\n", DiskSpace(tmp_path, reserved=1 << 60))


def test_a_disk_that_is_full_within_the_file_of_a_form_is_named(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(DiskFull, match="nothing was stored"):
            read_form(HEAD + bytes(3 << 20) + b"\r\n--x--\r\n", DiskSpace(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_malformed_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="form was refused"):
        read_form(b"--y\r\n", DiskSpace(tmp_path))
