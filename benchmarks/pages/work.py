"""Seeds a datanet, an upload that was refused, and a job half way, all of one signed-in account."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.db.tables.chain import ContributionRow, DatanetRow, SnapshotRow
from backend.domain.content import cid_digest
from backend.domain.contribution import (
    PersonalData,
    PersonalFinding,
    PersonalKind,
    Profile,
    Report,
    Upload,
    UploadState,
)
from backend.domain.dataset import Defect, RowFormat, canonical_row
from backend.domain.hashing import licence_word
from backend.domain.near_duplicates import NearCopies, NearCopy
from backend.domain.training import JobState, Lease, Payment, TrainingConfig, TrainingJob
from backend.services.contribute.staging import DATA_FILE
from backend.services.contribute.terms import TERMS_FILE, terms_file
from benchmarks.api import chain_events
from tools.labels import some_account, some_hash

if TYPE_CHECKING:
    from backend.db.unit_of_work import UnitOfWork
    from backend.domain.ids import Account, Hash32, SnapshotId
    from backend.installation.installation import Installation

ACCOUNT = some_account("payer 1")
UPLOAD, JOB = "upload-0123456789abcdef", "ftjob-0123456789abcdef0123456789abcdef"
NUM_STEPS, STEP = 240, 150
DESCRIPTION = """# Docstrings

Functions of permissively licensed Python packages, each with its docstring. Rows are prompts with
completions; the `source` is the function's qualified name.
"""
DEFECTS = (
    Defect(17, "wrong_type", "must be a string, not a number", "completion"),
    Defect(214, "malformed_json", "Expecting ',' delimiter at character 58"),
    Defect(903, "copied_row", f"a copy of contribution 2 by {some_account('contributor 2')}"),
)


def seed(installation: Installation, tx: UnitOfWork, snapshot: SnapshotId) -> dict[str, str]:
    """Paths of the pages by name. `snapshot`: one of the datanet, which the chain's events have recorded."""
    content_hash = _describe_datanet(installation, tx, snapshot)
    tx.contributions.add(_upload())
    _add_job(installation, tx, snapshot)
    datanet = f"/d/{chain_events.DATANET}"
    return {
        "datanets": "/datanets",
        "datanet": datanet,
        "contribution": f"{datanet}/c/{content_hash}",
        "upload": f"/u/{UPLOAD}",
        "jobs": f"/jobs?snapshot={snapshot}",
        "job": f"/jobs/{JOB}",
        "play": "/play",
    }


def _describe_datanet(installation: Installation, tx: UnitOfWork, snapshot: SnapshotId) -> Hash32:
    """Give the datanet a description, and one more contribution, whose rows are stored. Returns its hash."""
    terms = {"README.md": DESCRIPTION.encode(), TERMS_FILE: terms_file("MIT OR Apache-2.0")}
    folder = installation.blobs.add_folder(terms)
    creator = tx.session.get_one(SnapshotRow, snapshot)
    named = {"id": creator.datanet, "creator": ACCOUNT, "name": "python-docstrings"}
    tx.session.merge(
        DatanetRow(**named, cid_digest=cid_digest(folder), block_number=2, log_index=2 * 10**6 + 1)
    )
    rows = [
        {"prompt": f"What does `math.f{number}` do?", "completion": "Returns the sine of x radians."}
        for number in range(40)
    ]
    raw = b"".join(canonical_row(row) + b"\n" for row in rows)
    content_hash = some_hash("stored content")
    tx.session.add(
        ContributionRow(
            datanet=creator.datanet,
            contributor=some_account("contributor 3"),
            content_hash=content_hash,
            cid_digest=cid_digest(installation.blobs.add_folder({DATA_FILE: raw})),
            licence=licence_word("MIT"),
            num_rows=len(rows),
            reason=0,
            recorded_at=int(time.time()) - 3600,
            block_number=2,
            log_index=2 * 10**6,
        )
    )
    return content_hash


def _upload() -> Upload:
    owner = some_account("contributor 4")
    near = NearCopy(31, "upload-of-another", 12, owner, 4, 912_000)
    finding = PersonalFinding(88, "completion", PersonalKind.EMAIL_ADDRESS, "a****@e******.org")
    report = Report(
        licence="MIT",
        datanet_licence="MIT OR Apache-2.0",
        format=RowFormat.INSTRUCT,
        num_rows=1204,
        num_characters=410_000,
        num_bytes=432_000,
        defects=DEFECTS,
        defect_counts={one.code: 1 for one in DEFECTS},
        profile=Profile(1000, False, 96_300, {"en": 981, "und": 19}, {"255": 800, "511": 404}),
        personal_data=PersonalData({PersonalKind.EMAIL_ADDRESS: 1}, (finding,)),
        near_copies=NearCopies(0, 1, (near,)),
    )
    now = datetime.now(UTC)
    return Upload(
        UPLOAD, ACCOUNT, chain_events.DATANET, "requests-2.32.jsonl", UploadState.INVALID, now, report
    )


def _add_job(installation: Installation, tx: UnitOfWork, snapshot: SnapshotId) -> None:
    now = datetime.now(UTC)
    channel = installation.counterparty.channel(ACCOUNT)
    payment = Payment(channel, some_hash("training"), 400_000, 500_000)  # type: ignore[arg-type]
    config = TrainingConfig(epochs=3.0, early_stopping=4)
    job = TrainingJob(
        JOB, ACCOUNT, snapshot, config, JobState.RUNNING, now, Lease(None, now), payment=payment
    )
    tx.training.add(job)
    tx.training.add_event(JOB, "state", {"state": "validating"}, now)
    tx.training.add_event(JOB, "dataset", {"digest": some_hash("rows"), "num_rows": 1640}, now)
    tx.training.add_event(JOB, "state", {"state": "running", "step": "train", "attempt": 1}, now)
    _evaluate(tx, "base", 3.11, now)
    for step in range(1, STEP + 1):
        loss = 1.62 + 1.5 * math.exp(-step / 45) + 0.05 * math.sin(step * 1.7)
        pace = {"tokens_per_second": 412.5, "eta_seconds": 4.3 * (NUM_STEPS - step)}
        tx.training.add_event(
            JOB, "progress", {"step": step, "num_steps": NUM_STEPS, "loss": loss, **pace}, now
        )
        if step % 20 == 0:
            _evaluate(tx, f"step-{step}", 1.86 + 1.25 * math.exp(-step / 40), now)


def _evaluate(tx: UnitOfWork, model: str, loss: float, now: datetime) -> None:
    tx.training.add_event(JOB, "eval", {"model": model, "loss": loss, "perplexity": math.exp(loss)}, now)


def session(installation: Installation, tx: UnitOfWork, account: Account = ACCOUNT) -> str:
    """Value of the cookie of a browser in which the account is signed in."""
    tokens = installation.sessions.open(tx, account)
    return f"{tokens.access}.{tokens.refresh}"
