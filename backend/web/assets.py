"""Static files of the pages: read once, addressed by the hash of their content, compressed when asked for."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response
from starlette.exceptions import HTTPException

from backend.web.headers import accepts_gzip

if TYPE_CHECKING:
    from collections.abc import Mapping

STATIC = Path(__file__).parent / "static"
BUILT = "built"
"""Folder of the scripts, which `make setup` builds."""
FOREVER = "public, max-age=31536000, immutable"
TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
"""Not those of `mimetypes`, which differ from one system to another."""

router = APIRouter(prefix="/static", include_in_schema=False)


@dataclass(frozen=True)
class Asset:
    """One file. `path` is relative to `STATIC`."""

    path: str
    content: bytes

    @property
    def media_type(self) -> str:
        return TYPES.get(PurePosixPath(self.path).suffix, "application/octet-stream")

    @cached_property
    def compressed(self) -> bytes | None:
        """None for files that are compressed already."""
        is_text = PurePosixPath(self.path).suffix in TYPES
        return gzip.compress(self.content, mtime=0) if is_text else None

    @cached_property
    def version(self) -> str:
        return hashlib.sha256(self.content).hexdigest()[:16]

    @property
    def url(self) -> str:
        """Changes with the content, so that browsers may keep the file for ever."""
        return f"/static/{self.path}?v={self.version}"


def read_assets(folder: Path = STATIC) -> Mapping[str, Asset]:
    """All files of the folder, by their path in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in paths]
    return {name: Asset(name, path.read_bytes()) for name, path in zip(names, paths, strict=True)}


@router.get("/{path:path}")
def get_asset(path: str, request: Request) -> Response:
    asset: Asset | None = request.app.state.assets.get(path)
    if asset is None:
        raise HTTPException(404, f"No file {path!r} belongs to the pages.")
    headers = {
        # During an upgrade, a page of another version may ask for another content.
        "cache-control": FOREVER if request.query_params.get("v") == asset.version else "no-cache",
        "vary": "accept-encoding",
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-origin",
    }
    content = asset.compressed if accepts_gzip(request) else None
    if content is not None:
        headers["content-encoding"] = "gzip"
    return Response(content or asset.content, media_type=asset.media_type, headers=headers)
