"""Screens the adapter of a finished job before it is published."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.inspection import parse_inspection
from workers.training.spec import ADAPTER, INSPECTION_FILE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from backend.domain.ids import Hash32
    from backend.domain.screening import Inspection, ScreeningReport
    from backend.domain.training import TrainingJob
    from backend.services.market.adapter_folders import AdapterFolders
    from backend.services.market.screening import Inspect, Screening


@dataclass(frozen=True, slots=True)
class JobScreening:
    screening: Screening
    folders: AdapterFolders
    inspect: Mapping[Hash32, Inspect]
    """By the digest of their base model; the first one is of jobs that name none."""

    def report(self, job: TrainingJob, job_folder: Path) -> ScreeningReport:
        """Compare the job's adapter with all registered versions that can be fetched. Idempotent.

        Errors: `AdapterRefused`, `Unavailable`.
        """
        inspect = next(iter(self.inspect.values())) if job.base is None else self.inspect[job.base]
        inspection = _inspection(job_folder, inspect)
        self.screening.add(inspection)
        self.screening.inspect_versions(inspection.base_model, self.folders, inspect)
        parent, has_snapshot = job.config.parent, job.imported is None
        return self.screening.report(
            inspection.adapter_digest, job.creator, parent, has_snapshot=has_snapshot
        )


def _inspection(job_folder: Path, inspect: Inspect) -> Inspection:
    """The one that training left; without it, a new one."""
    file = job_folder / INSPECTION_FILE
    if file.exists():
        return parse_inspection(json.loads(file.read_bytes()))
    return inspect(job_folder / ADAPTER)
