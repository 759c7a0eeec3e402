"""Passes an attacker's rows through the check that every upload passes, next to the honest rows."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.db.base import Base
from backend.db.tables import load_all
from backend.db.unit_of_work import Database
from backend.domain.contribution import Report, Upload, UploadState
from backend.domain.ids import Account, DatanetId
from backend.services.contribute.check_upload import COPY_CODES, UploadCheck
from backend.services.contribute.staging import Staging
from backend.services.contribute.uploads import claim_rows
from backend.settings import Settings
from benchmarks.attribution.attacks import completion

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any

    from workers.training.rows import Example

MAX_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Admission:
    """Of `num_rows` uploaded rows, `num_refused` are refused as copies, and `num_near` of the others are
    reported to curators as near copies of other contributions.
    """

    num_rows: int
    num_refused: int
    num_near: int


def admit(known: Sequence[Example], added: Sequence[Example], tokenizer: Any, work: Path) -> Admission:
    """Check `added` against a datanet with the rows `known`, in the scratch folder `work`."""
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    load_all()
    database = Database.open(f"sqlite:///{work / 'rows.db'}")
    try:
        Base.metadata.create_all(database.engine)
        staging = Staging(work / "staging", MAX_BYTES)
        check = UploadCheck(database, staging, lambda _texts: None, Settings().refused_kinds)
        _check(check, "known", list(_lines(known, tokenizer)))
        claim_rows(database, "known")
        report = _check(check, "added", list(_lines(added, tokenizer)))
    finally:
        database.close()
    shutil.rmtree(work)
    refused = sum(count for code, count in report.defect_counts.items() if code in COPY_CODES)
    return Admission(len(added), refused, report.near_copies.num_in_datanet if report.near_copies else 0)


def _check(check: UploadCheck, name: str, lines: Sequence[bytes]) -> Report:
    account = Account("0x" + "11" * 20)
    upload = Upload(
        name, account, DatanetId(1), "rows", UploadState.CHECKING, datetime.now(UTC), Report("MIT")
    )
    with check.db.begin() as tx:
        tx.contributions.add(upload)
    return check.report(upload, lines, accepts_partial=True)


def _lines(rows: Sequence[Example], tokenizer: Any) -> Iterator[bytes]:
    for row in rows:
        yield json.dumps({"prompt": row.group, "completion": completion(row, tokenizer)}).encode() + b"\n"
