"""Verifies the attribution index of a registered version: fetches what it was computed from, and has a child
process compute it again.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain.attribution import INDEX_FILE
from backend.domain.attribution_checks import Draws, MethodDifference, Recomputed, index_checks
from backend.domain.content import ContentCorrupt, ContentMissing
from backend.domain.errors import InvalidInput, Unavailable
from backend.domain.receipt_checks import Check
from backend.services.contribute.snapshot import ContributionWithdrawn
from workers.training.dataset import write_rows
from workers.training.spec import ROWS_FILE, VerificationSpec
from workers.training.supervise import LOG_FILE, TrainingCrashed, supervise, training_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from backend.domain.receipt import VersionRecord
    from backend.installation.installation import Installation
    from workers.training.supervise import Message

PARTS = "attribution"
NOT_COMPUTED = "the index could not be computed again"


def verify_attribution(
    installation: Installation, record: VersionRecord, on_event: Callable[[Message], None]
) -> list[Check]:
    """Checks of a version's index. `on_event` gets the progress of the child process.

    Errors: those of `AdapterFolders.folder`.
    """
    if not record.snapshots:
        return [_open("the version names no snapshot, so its contributors' share goes to the treasury")]
    try:
        base_folder = installation.base_of(record).folder
    except InvalidInput as error:
        return [_open(error.message)]
    folder = installation.adapter_folders.folder(record)
    if not (folder / INDEX_FILE).is_file():
        return [_open("its folder has no attribution index, so all contributions count alike")]
    with tempfile.TemporaryDirectory(prefix="loraledger-") as job:
        return _compare(installation, record, base_folder, Path(job), on_event)


def _compare(
    installation: Installation,
    record: VersionRecord,
    base_folder: str,
    job: Path,
    on_event: Callable[[Message], None],
) -> list[Check]:
    """Checks of the index in the version's folder against one that a child process computes."""
    missing = _write_rows(installation, record, job / ROWS_FILE)
    # A use, from which on `supervise` keeps it: while rows were fetched, it may have been deleted for room.
    folder = installation.adapter_folders.folder(record)
    spec = VerificationSpec(
        adapter_folder=str(folder.resolve()),
        adapter_digest=record.adapter_digest.removeprefix("0x"),
        model_cache=str(installation.settings.model_cache.resolve()),
        base_folder=base_folder,
        num_threads=installation.settings.trainer_threads,
        has_rows=missing is None,
    )
    spec.save(job)
    try:
        message = supervise(training_command(job), job, lambda: True, on_event, adapter_folder=folder)
    except TrainingCrashed as error:
        last = (job / LOG_FILE).read_text(errors="replace").splitlines()[-1:]
        return [_open(f"{NOT_COMPUTED}: {error}: {''.join(last)}")]
    if message is None:
        raise AssertionError("the child was not asked to stop")
    if message.kind != "failed":
        checks = index_checks(parse_recomputed(message.data))
        return checks if missing is None else [*checks, Check("rows", None, f"cannot be checked: {missing}")]
    text = str(message.data["message"])
    if message.data["code"] == "malformed_folder":
        return [Check(PARTS, is_right=False, message=text)]
    return [_open(f"{NOT_COMPUTED}: {text}")]


def parse_recomputed(message: Mapping[str, Any]) -> Recomputed:
    """The measurements of the child process, from JSON."""
    rows, draws, kept_out = message["rows"], message["draws"], message["num_kept_out"]
    return Recomputed(
        methods=tuple(MethodDifference(**each) for each in message["methods"]),
        rows=None if rows is None else {int(at): (pair[0], pair[1]) for at, pair in rows.items()},
        num_unplanned=message["num_unplanned"],
        draws=None if draws is None else Draws(**draws),
        agreements={method: (pair[0], pair[1]) for method, pair in message["agreements"].items()},
        num_kept_out=None if kept_out is None else (kept_out[0], kept_out[1]),
        unchecked=message["unchecked"],
    )


def _write_rows(installation: Installation, record: VersionRecord, path: Path) -> str | None:
    """Write the rows of the version's own snapshot, which comes first. Returns why they cannot be had."""
    try:
        write_rows(installation.datanets.fetching_snapshots, record.snapshots[0], path)
    except (ContributionWithdrawn, ContentMissing, ContentCorrupt, Unavailable) as error:
        return error.message
    return None


def _open(reason: str) -> Check:
    return Check(PARTS, is_right=None, message=f"cannot be checked: {reason}")
