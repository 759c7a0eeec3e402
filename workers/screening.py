"""The gate as workers pass it: what was trained is inspected and compared before it is published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.inspection import read_inspection
from workers.training.spec import ADAPTER, INSPECTION_FILE

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.screening import Inspection, ScreeningReport
    from backend.domain.training import TrainingJob
    from backend.services.market.adapter_folders import AdapterFolders
    from backend.services.market.screening import Gate, Inspect


@dataclass(frozen=True, slots=True)
class Gatekeeper:
    gate: Gate
    folders: AdapterFolders
    inspect: Inspect

    def report(self, job: TrainingJob, job_folder: Path) -> ScreeningReport:
        """Of the job's adapter, beside all versions that can be had. Again is harmless.

        Errors: `AdapterRefused`, `Unavailable`.
        """
        found = self._inspection(job_folder)
        self.gate.note(found)
        self.gate.learn(found.base_model, self.folders, self.inspect)
        parent, has_snapshot = job.config.parent, job.imported is None
        return self.gate.report(found.adapter_digest, job.creator, parent, has_snapshot=has_snapshot)

    def _inspection(self, job_folder: Path) -> Inspection:
        """Training left one; a job that was trained before there was a gate has none."""
        file = job_folder / INSPECTION_FILE
        return (
            read_inspection(json.loads(file.read_bytes()))
            if file.exists()
            else self.inspect(job_folder / ADAPTER)
        )
