"""A large file's way to an installation: in pieces, and onward from where it stopped last time."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import TYPE_CHECKING, Any

import typer

from backend.domain.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.cli.client import Market

PIECE_BYTES = 8 << 20
"""What is lost at most when the connection breaks; larger files go this way."""
TUS = {"Tus-Resumable": "1.0.0"}


def transfer(market: Market, path: Path, tell: Callable[[int, int], None]) -> str:
    """Its id, once all bytes are there. `tell` hears how many of how many are, first of all what an earlier
    attempt had brought: the installation knows the file by its digest.

    Errors: `ApiRefused`, `Unavailable`; what was acknowledged stays for a day.
    """
    digest = _digest(path)
    known = [one for one in market.get("/v1/transfers")["data"] if one["sha256"] == digest]
    under_way: dict[str, Any] = known[0] if known else _create(market, path, digest)
    size, offset = under_way["num_bytes"], under_way["offset"]
    with path.open("rb") as file:
        while True:
            tell(offset, size)
            if offset >= size:
                return str(under_way["id"])
            file.seek(offset)
            offset = _send(market, under_way["id"], offset, file.read(PIECE_BYTES))


def transfer_shown(market: Market, path: Path) -> str:
    """As `transfer`, with its progress on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(path.name)
            return transfer(market, path, lambda done, of: progress.update(task, completed=done, total=of))
    except (KeyboardInterrupt, Unavailable):
        typer.echo("interrupted: what arrived stays for a day; the same command goes on from there", err=True)
        raise


def _create(market: Market, path: Path, digest: str) -> dict[str, Any]:
    told = {"filename": path.name, "sha256": digest}
    metadata = ",".join(f"{key} {b64encode(value.encode()).decode()}" for key, value in told.items())
    headers = {"Upload-Length": str(path.stat().st_size), "Upload-Metadata": metadata}
    made: dict[str, Any] = market.request("POST", "/v1/transfers", headers=TUS | headers)
    return made


def _send(market: Market, transfer_id: str, offset: int, piece: bytes) -> int:
    """Where it ends now."""
    checksum = b64encode(hashlib.sha256(piece).digest()).decode()
    headers = {
        "Content-Type": "application/offset+octet-stream",
        "Upload-Offset": str(offset),
        "Upload-Checksum": f"sha256 {checksum}",
    }
    answer = market.exchange("PATCH", f"/v1/transfers/{transfer_id}", headers=TUS | headers, content=piece)
    return int(answer.headers["Upload-Offset"])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
