"""Workers that run the steps of jobs, with training processes that do as their script says."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from backend.domain.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from backend.domain.ids import Cid, VersionId
from backend.domain.screening import ScreeningReport
from backend.domain.training import JobState
from backend.services.contribute.transfers import Transfers
from backend.services.train.imported import ImportedAdapters
from backend.services.train.parents import Parent, reject_parent
from tests.unit.workers.support import (
    BASE,
    CREATOR,
    RESULT,
    TRAINED_FILES,
    InMemoryRows,
    JobHarness,
    letter_rows,
    transferred,
)
from workers.steps import Steps, TrainerOptions
from workers.training.spec import ADAPTER

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.training import Step, TrainingJob

CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")
RESULT_JSON = {
    "adapter_digest": RESULT.adapter_digest,
    "base_model": RESULT.base_model,
    "metrics": dict(RESULT.metrics),
}
SAY = """
import json, os, pathlib, sys, time

def say(kind, **data):
    print(json.dumps({"kind": kind, "data": data}), flush=True)

"""
DONE = f"""
say('progress', step=1, loss=2.0)
adapter = pathlib.Path(sys.argv[1]) / {ADAPTER!r}
adapter.mkdir(exist_ok=True)
for name, content in {TRAINED_FILES!r}.items():
    (adapter / name).write_bytes(content)
say('done', **{RESULT_JSON!r})
"""
ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)


class FakePublication:
    """Replaces `Publication`; records the published folders, and the jobs without success whose folders are
    discarded.
    """

    def __init__(self, jobs: JobHarness) -> None:
        self._jobs = jobs
        self.folders: list[Path] = []
        self.cid = CID
        self.discarded: list[str] = []
        self.forgotten: list[Cid] = []
        self.error: Exception | None = None

    def cid_of(self, folder: Path) -> Cid:
        return self.cid

    def publish(self, folder: Path) -> Cid:
        if self.error is not None:
            raise self.error
        self.folders.append(folder)
        return self.cid

    def discard_folder(self, cid: Cid) -> None:
        self.forgotten.append(cid)

    def discard(self, job_id: str) -> None:
        job = self._jobs.training.get(job_id)
        if job.is_over and job.state is not JobState.SUCCEEDED:
            self.discarded.append(job_id)


class FakeScreening:
    """Replaces `JobScreening`; every report is equal."""

    def report(self, job: TrainingJob, job_folder: Path) -> ScreeningReport:
        return ScreeningReport(None, None, 0, 0)


class StepsHarness:
    """Workers on the jobs of a `JobHarness`; their training processes run `program`."""

    def __init__(self, jobs: JobHarness, folder: Path) -> None:
        self.jobs = jobs
        self.folder = folder
        self.rows = InMemoryRows(letter_rows())
        self.store = FakePublication(jobs)
        self.parents: dict[VersionId, Parent] = {}
        self.transfers = Transfers(folder.parent / "transfers", 1 << 20)
        self.imports = ImportedAdapters(jobs.database, self.transfers, lambda: jobs.now)
        self.program = DONE
        self.leases = jobs.leases
        self.leases.heartbeat_seconds = 0.02

    def worker(self) -> Steps:
        def command(folder: Path) -> list[str]:
            return [sys.executable, "-c", SAY + self.program, str(folder)]

        bring = self.parents.__getitem__ if self.parents else reject_parent
        cache = self.folder / "cache"
        folders = {BASE.digest: ""}
        options = TrainerOptions(self.folder, cache, 1, folders, command, bring, transfers=self.transfers)
        return Steps(self.leases, self.rows, FakeScreening(), self.store, options)  # type: ignore[arg-type]

    def create_import(self) -> TrainingJob:
        """Import an adapter that was trained elsewhere."""
        sent = {name: transferred(self.transfers, CREATOR, name.encode()) for name in ADAPTER_FILES}
        return self.imports.create(CREATOR, "MIT", sent)

    def run(self, job_id: str, *steps: Step) -> None:
        for step in steps:
            self.worker().run(step, job_id)


def state(harness: StepsHarness, job_id: str) -> JobState:
    return harness.jobs.training.get(job_id).state
