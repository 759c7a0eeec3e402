"""Resumable uploads of large files, by the tus protocol."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from backend.client.errors import reading_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.client.api import ApiClient

PIECE_BYTES = 8 << 20
"""Most that is lost when the connection breaks. Larger files are uploaded resumably."""
TUS = {"Tus-Resumable": "1.0.0"}


def transfer(client: ApiClient, path: Path, on_progress: Callable[[int, int], None]) -> str:
    """Upload a file in pieces; returns the transfer's id. Resumes an earlier transfer with the same digest.

    `on_progress(done, total)` is called with bytes, first with what an earlier attempt uploaded. Errors:
    `ApiError`, `Unavailable`; the installation keeps acknowledged pieces for a day.
    """
    digest = _digest(path)
    with reading_answer():
        earlier = [each for each in client.get("/v1/transfers")["data"] if each["sha256"] == digest]
    current: dict[str, Any] = earlier[0] if earlier else _create(client, path, digest)
    size = path.stat().st_size
    with reading_answer():
        offset, number = max(0, int(current["offset"])), str(current["id"])
    with path.open("rb") as file:
        while True:
            on_progress(offset, size)
            if offset >= size:
                return number
            file.seek(offset)
            offset = _send(client, number, offset, file.read(PIECE_BYTES))


def _create(client: ApiClient, path: Path, digest: str) -> dict[str, Any]:
    fields = {"filename": path.name, "sha256": digest}
    metadata = ",".join(
        f"{key} {b64encode(value.encode(errors='replace')).decode()}" for key, value in fields.items()
    )
    headers = {"Upload-Length": str(path.stat().st_size), "Upload-Metadata": metadata}
    created: dict[str, Any] = client.request("POST", "/v1/transfers", headers=TUS | headers)
    return created


def _send(client: ApiClient, transfer_id: str, offset: int, piece: bytes) -> int:
    """Upload one piece; returns the new offset."""
    checksum = b64encode(hashlib.sha256(piece).digest()).decode()
    headers = {
        "Content-Type": "application/offset+octet-stream",
        "Upload-Offset": str(offset),
        "Upload-Checksum": f"sha256 {checksum}",
    }
    response = client.send("PATCH", f"/v1/transfers/{transfer_id}", headers=TUS | headers, content=piece)
    with reading_answer():
        reached = int(response.headers["Upload-Offset"])
        if not offset < reached <= offset + len(piece):
            raise ValueError(f"Upload-Offset {reached} after {len(piece)} bytes at {offset}")
        return reached


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
