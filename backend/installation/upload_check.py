"""Checks an upload's file without an installation, with a temporary database."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backend.disk.files import pieces
from backend.domain.contribution import Report, Upload, UploadState
from backend.domain.ids import ZERO_ACCOUNT, DatanetId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.services.contribute.check_upload import UploadCheck
    from backend.settings import Settings


def check_file(path: Path, licence: str, settings: Settings) -> Report:
    """Build the report that an upload of the file would get, except for comparisons with a datanet.

    Errors: `UnknownLicence`, and those of `receive`.
    """
    from backend.services.contribute.licences import parse_licence

    report = Report(parse_licence(licence))
    now = datetime.now(UTC)
    state = UploadState.CHECKING
    upload = Upload("upload-file", ZERO_ACCOUNT, DatanetId(0), path.name, state, now, report)
    with _temporary_check(settings) as check:
        with check.db.begin() as tx:
            tx.contributions.add(upload)
        return check.report(upload, pieces(path))


@contextmanager
def _temporary_check(settings: Settings) -> Iterator[UploadCheck]:
    from backend.db.migrate import upgrade
    from backend.db.unit_of_work import Database
    from backend.services.contribute.check_upload import UploadCheck
    from backend.services.contribute.staging import Staging

    def count_tokens(texts: Sequence[str]) -> int | None:
        return _count_tokens(settings.served[0].file, texts)

    with tempfile.TemporaryDirectory(prefix="loraledger-check-") as folder:
        database = Database.open(f"sqlite:///{folder}/check.db")
        try:
            upgrade(database.engine)
            staging = Staging(Path(folder) / "uploads", settings.max_upload_bytes)
            yield UploadCheck(database, staging, count_tokens, settings.refused_kinds)
        finally:
            database.close()


def _count_tokens(base_model_file: Path, texts: Sequence[str]) -> int | None:
    """Number of tokens; None if no base model was prepared yet."""
    from backend.services.contribute.base_tokenizer import count_tokens

    if not base_model_file.is_file():
        return None
    return count_tokens(Path(json.loads(base_model_file.read_text())["folder"]), texts)
