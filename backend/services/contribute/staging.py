"""Stores checked uploads on disk until the chain has recorded them."""

from __future__ import annotations

import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from backend.disk.space import DiskSpace
from backend.domain.dataset import canonical_row, parse_json
from backend.domain.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.contribution import Upload

DATA_FILE = "data.jsonl"
MANIFEST_FILE = "contribution.json"
DEFECTS_FILE = "defects.jsonl"


def stated(manifest: Iterator[bytes], name: str) -> Any:
    """The value of this name in a published manifest, which is untrusted; None if it states none."""
    first = next(manifest, b"")  # our manifests are smaller than a chunk, an untrusted one may have any size
    try:
        return parse_json(first.decode())[name]
    except (ValueError, LookupError, TypeError):
        return None


class Staging:
    """One folder per upload below `root`, with its canonical rows, at most `max_bytes`, and its defects.
    Uploads leave `reserved` bytes of the disk free.
    """

    def __init__(self, root: Path, max_bytes: int, reserved: int = 0) -> None:
        self._root = root
        self.max_bytes = max_bytes
        self.space = DiskSpace(root, reserved)

    def open(self, upload_id: str) -> None:
        """Create an empty folder; delete that of an earlier attempt."""
        self.drop(upload_id)
        (self._root / upload_id).mkdir(parents=True)

    def data(self, upload_id: str) -> Path:
        return self._root / upload_id / DATA_FILE

    def defects(self, upload_id: str) -> Path:
        return self._root / upload_id / DEFECTS_FILE

    def drop_data(self, upload_id: str) -> None:
        """Delete the rows, but not the defects."""
        self.data(upload_id).unlink(missing_ok=True)
        with suppress(OSError):
            (self._root / upload_id).rmdir()

    def drop(self, upload_id: str) -> None:
        shutil.rmtree(self._root / upload_id, ignore_errors=True)

    def published_folder(self, upload: Upload) -> dict[str, Path | bytes]:
        """The files to publish. Errors: `NotFound` if the rows are not stored any more."""
        if not self.data(upload.id).exists():
            raise NotFound(
                f"the rows of upload {upload.id} are not stored any more: upload them again", "upload_id"
            )
        report = upload.report
        manifest = {
            "format": "loraledger-contribution-1",
            "contentHash": report.content_hash,
            "contributor": upload.account,
            "datanetId": upload.datanet,
            "licence": report.licence,
            "name": upload.name,
            "rowFormat": report.format,
            "rows": report.num_rows,
        }
        return {DATA_FILE: self.data(upload.id), MANIFEST_FILE: canonical_row(manifest) + b"\n"}
