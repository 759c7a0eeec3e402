"""Measures the speed and memory of upload validation, on rows made of words from docstrings."""

from __future__ import annotations

import json
import random
import resource
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.db.base import Base
from backend.db.tables import load_all
from backend.db.unit_of_work import Database
from backend.disk.files import pieces
from backend.domain.contribution import Report, Upload, UploadState
from backend.domain.ids import Account, DatanetId
from backend.services.contribute.canonical_rows import DefectLog, write_upload
from backend.services.contribute.check_upload import UploadCheck
from backend.services.contribute.docstrings import build_dataset
from backend.services.contribute.profile import Profiler
from backend.services.contribute.staging import Staging
from backend.services.contribute.uploads import claim_rows
from backend.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEGABYTE = 10**6
WORDS_PER_ROW = 30
NEAR_SHARE = 0.05
"""Share of rows that differ from another row by one word."""
PACKAGES = ("json", "asyncio", "collections", "email", "logging", "unittest")
DATANET = DatanetId(1)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes in bytes: of the JSONL file to validate, and of the upload compared with a datanet of equal
    size.
    """

    structure: int
    near: int


@dataclass(frozen=True, slots=True)
class Rate:
    """Megabytes per second, of wall time and of processor time."""

    by_clock: float
    by_processor: float
    """Excludes waiting, for disks or for other processes."""


@dataclass(frozen=True, slots=True)
class ValidationResult:
    structure: Rate
    near: Rate
    peak_megabytes: float
    """Peak resident memory of the process."""


class Stopwatch:
    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def rate(self, num_bytes: int) -> Rate:
        clock, processor = self._began
        megabytes = num_bytes / MEGABYTE
        return Rate(megabytes / (time.perf_counter() - clock), megabytes / (time.process_time() - processor))


def measure(sizes: Sizes, work: Path) -> ValidationResult:
    """Run in a new process, for its peak memory. Errors: `AssertionError` if planted defects are missed."""
    work.mkdir(parents=True, exist_ok=True)
    structure, near = _structure(sizes.structure, work), _near_duplicates(sizes.near, work)
    peak_kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return ValidationResult(structure, near, peak_kilobytes * 1024 / MEGABYTE)


def rows(num_bytes: int, seed: int) -> Iterator[bytes]:
    """JSON lines of at least `num_bytes` in total, determined by `seed`."""
    rng = random.Random(seed)  # noqa: S311 - a fixed seed, so that runs are comparable
    words = _words()
    total, last = 0, ""
    for number in range(num_bytes):
        is_near = last and rng.random() < NEAR_SHARE
        text = f"{last} again" if is_near else " ".join(rng.choices(words, k=WORDS_PER_ROW))
        row = {"prompt": f"What is {seed}.{number}?", "completion": text, "source": str(number)}
        line = json.dumps(row).encode() + b"\n"
        last = "" if is_near else text
        yield line
        total += len(line)
        if total >= num_bytes:
            return


def _structure(num_bytes: int, work: Path) -> Rate:
    path = _written(work / "rows.jsonl", rows(num_bytes, seed=0))
    profiler = Profiler(lambda _texts: None)
    watch = Stopwatch()
    with DefectLog(work / "defects.jsonl") as log:
        target = work / "canonical.jsonl"
        received = write_upload(pieces(path), target, 2 * num_bytes, log, profiler, _discard, iter)
    rate = watch.rate(path.stat().st_size)
    _require(not log.counts and received.num_bytes > num_bytes // 2, "valid rows were refused")
    for made in (path, work / "canonical.jsonl"):
        made.unlink()
    return rate


def _near_duplicates(num_bytes: int, work: Path) -> Rate:
    """Measure the complete check of an upload against a datanet of the same size."""
    load_all()
    database_file = work / "rows.db"
    database_file.unlink(missing_ok=True)
    database = Database.open(f"sqlite:///{database_file}")
    Base.metadata.create_all(database.engine)
    staging, refused = Staging(work / "uploads", 2 * num_bytes), Settings().refused_kinds
    check = UploadCheck(database, staging, _no_tokens, refused)
    known = _written(work / "known.jsonl", rows(num_bytes, seed=1))
    new = _written(work / "new.jsonl", _partly_copied(num_bytes))
    _check(check, "upload-known", known)
    claim_rows(database, "upload-known")
    watch = Stopwatch()
    report = _check(check, "upload-new", new)
    rate = watch.rate(new.stat().st_size)
    database.close()
    near = report.near_copies
    is_seen = near is not None and near.num_in_datanet > 0.2 * report.num_rows and near.num_in_upload > 0
    _require(is_seen, f"near duplicates were missed: {near}")
    for made in (database_file, known, new):
        made.unlink()
    return rate


def _partly_copied(num_bytes: int) -> Iterator[bytes]:
    """Rows of which a quarter differ from the known upload by one character each."""
    for line in rows(num_bytes // 4, seed=1):
        yield line.replace(b"?", b"!", 1)
    yield from rows(num_bytes - num_bytes // 4, seed=2)


def _written(path: Path, lines: Iterator[bytes]) -> Path:
    with path.open("wb") as file:
        file.writelines(lines)
    return path


def _check(check: UploadCheck, upload_id: str, path: Path) -> Report:
    account = Account("0x" + "11" * 20)
    now = datetime.now(UTC)
    upload = Upload(upload_id, account, DATANET, "rows", UploadState.CHECKING, now, Report("MIT"))
    with check.db.begin() as tx:
        tx.contributions.add(upload)
    report = check.report(upload, pieces(path))
    _require(not report.num_defects, f"valid rows were refused: {report.defects[:3]}")
    check.staging.drop(upload_id)
    return report


def _words() -> list[str]:
    texts = (row["completion"] for package in PACKAGES for row in build_dataset(package).rows)
    return [word for text in texts for word in text.split()]


def _discard(_rows: object) -> None:
    """Discard rows, to measure validation alone."""


def _no_tokens(_texts: object) -> None:
    """Skip token counts, which need a base model."""


def _require(condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(message)
