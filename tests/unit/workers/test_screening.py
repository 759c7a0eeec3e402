from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from backend.domain.ids import Hash32, SnapshotId
from backend.domain.screening import AdapterRefused
from backend.domain.training import JobState, Lease, TrainingConfig, TrainingJob
from backend.services.market.adapter_folders import AdapterFolders
from backend.services.market.screening import Screening
from backend.storage.embedded import EmbeddedStore
from tests.fixtures_engine import make_adapter
from tests.unit.workers.support import BASE, CREATOR
from workers.inspection import InspectionFailed, InspectionProcess
from workers.screening import JobScreening
from workers.training.inspection import as_json, inspect_adapter
from workers.training.spec import ADAPTER, INSPECTION_FILE, write_json

if TYPE_CHECKING:
    from pathlib import Path

    from backend.db.unit_of_work import Database


NOW = datetime(2026, 1, 1, tzinfo=UTC)
JOB = TrainingJob(
    "ftjob-1",
    CREATOR,
    SnapshotId(Hash32("0x" + "5a" * 32)),
    TrainingConfig(),
    JobState.RUNNING,
    NOW,
    Lease(None, NOW),
)


@pytest.fixture
def job_screening(sqlite_database: Database, tiny_base: Path, tmp_path: Path) -> JobScreening:
    screening = Screening(sqlite_database)
    store = EmbeddedStore(tmp_path / "ipfs", is_durable=False)
    inspect = {BASE.digest: InspectionProcess(tiny_base)}
    return JobScreening(screening, AdapterFolders(store, tmp_path / "adapters"), inspect)


def test_an_adapter_without_an_inspection_file_is_inspected_in_a_separate_process(
    job_screening: JobScreening, tiny_base: Path, tmp_path: Path
) -> None:
    ref = make_adapter(tmp_path / ADAPTER, tiny_base)
    report = job_screening.report(JOB, tmp_path)
    assert (report.nearest, report.num_compared) == (None, 0)
    (tmp_path / ADAPTER / "adapter_model.safetensors").unlink()  # from here on what was written counts
    with job_screening.screening._db.read() as tx:
        noted = tx.inspections.get("0x" + ref.digest)  # type: ignore[arg-type]
    assert noted is not None
    write_json(tmp_path / INSPECTION_FILE, as_json(noted))
    assert job_screening.report(JOB, tmp_path) == report


def test_the_process_returns_the_inspection_that_training_would_write(
    tiny_base: Path, tmp_path: Path
) -> None:
    make_adapter(tmp_path / ADAPTER, tiny_base)
    received = as_json(InspectionProcess(tiny_base)(tmp_path / ADAPTER))
    assert json.dumps(received) == json.dumps(as_json(inspect_adapter(tiny_base, tmp_path / ADAPTER)))


def test_an_adapter_that_the_engine_refuses_is_refused_with_its_code(
    job_screening: JobScreening, tiny_base: Path, tmp_path: Path
) -> None:
    make_adapter(tmp_path / ADAPTER, tiny_base)
    (tmp_path / ADAPTER / "more.pkl").write_bytes(b"")
    with pytest.raises(AdapterRefused) as refusal:
        job_screening.report(JOB, tmp_path)
    assert refusal.value.details == {"reason": "adapter_pickle"}


def test_a_process_that_breaks_down_is_no_verdict_on_the_adapter(tmp_path: Path) -> None:
    with pytest.raises(InspectionFailed):
        InspectionProcess(tmp_path / "no-base")(tmp_path / ADAPTER)
