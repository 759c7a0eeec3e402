"""Imported adapters, from their creator's side: `backend.services.train.imported`."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from backend.domain.adapter_files import CONFIG_FILE, WEIGHTS_FILE
from backend.domain.errors import Conflict, DiskFull, DomainError, NotFound
from backend.domain.ids import ZERO_HASH
from backend.domain.training import JobState, Step
from backend.services.contribute.canonical_rows import UploadTooLarge
from backend.services.contribute.licences import UnknownLicence
from backend.services.contribute.transfers import Transfers, TransferUnfinished
from backend.services.train.imported import (
    COPIES,
    MAX_PENDING,
    FileMissing,
    ImportedAdapters,
    TooManyAdapters,
    UnexpectedFile,
)
from tests.unit.workers.support import CREATOR, OTHER_CREATOR, RESULT, transferred

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.training import TrainingJob
    from tests.unit.workers.support import JobHarness


class Counter:
    """Where creators bring adapters to."""

    def __init__(self, harness: JobHarness, folder: Path) -> None:
        database = harness.database
        self.harness = harness
        self.transfers = Transfers(folder / "transfers", 1 << 41)
        self.adapters = ImportedAdapters(database, self.transfers, lambda: harness.now)
        self.files = {
            name: transferred(self.transfers, CREATOR, b"{}") for name in (CONFIG_FILE, WEIGHTS_FILE)
        }

    def create(self) -> TrainingJob:
        return self.adapters.create(CREATOR, "mit", self.files)


@pytest.fixture
def counter(harness: JobHarness, tmp_path: Path) -> Counter:
    return Counter(harness, tmp_path)


def test_an_imported_adapter_awaits_validation_and_names_no_snapshot(counter: Counter) -> None:
    job = counter.create()
    assert counter.adapters.get(job.id) == job
    assert (job.state, job.step, job.snapshot_id) == (JobState.VALIDATING, Step.VALIDATE, ZERO_HASH)
    assert job.imported is not None
    assert (job.imported.licence, job.imported.transfers) == ("MIT", counter.files)
    assert counter.harness.offers() == [("import.validate", job.id)]


def test_trainings_and_foreign_adapters_are_not_taken_for_each_other(counter: Counter) -> None:
    brought, trained = counter.create(), counter.harness.job()
    assert [job.id for job in counter.adapters.list(CREATOR)] == [brought.id]
    assert [job.id for job in counter.harness.training.list(CREATOR)] == [trained.id]
    for ask in (counter.harness.training.get, counter.harness.training.events):
        with pytest.raises(NotFound):
            ask(brought.id)
    with pytest.raises(NotFound):
        counter.harness.training.cancel(brought.id, CREATOR)
    with pytest.raises(NotFound):
        counter.adapters.get(trained.id)


def test_only_its_creator_sees_or_cancels_it(counter: Counter) -> None:
    job = counter.create()
    assert not counter.adapters.list(OTHER_CREATOR)
    with pytest.raises(NotFound):
        counter.adapters.get(job.id, OTHER_CREATOR)
    with pytest.raises(NotFound):
        counter.adapters.events(job.id, OTHER_CREATOR)
    with pytest.raises(NotFound):
        counter.adapters.cancel(job.id, OTHER_CREATOR)


def test_a_cancelled_one_is_over_and_what_is_over_is_not_cancelled(counter: Counter) -> None:
    job = counter.create()
    for _ in range(2):
        assert counter.adapters.cancel(job.id, CREATOR).state is JobState.CANCELLED
    states = [event.data["state"] for event in counter.adapters.events(job.id, CREATOR)]
    assert states == ["validating", "cancelled"]
    failed = counter.create()
    held = counter.harness.leases.acquire(failed.id, Step.VALIDATE)
    assert held is not None
    counter.harness.leases.fail(held, {"code": "x", "message": "x"})
    with pytest.raises(Conflict, match="has already failed"):
        counter.adapters.cancel(failed.id, CREATOR)


def test_an_accepted_one_is_to_be_published(counter: Counter) -> None:
    job = counter.create()
    held = counter.harness.leases.acquire(job.id, Step.VALIDATE)
    assert held is not None
    counter.harness.leases.complete_import(held, RESULT)
    accepted = counter.adapters.get(job.id)
    assert (accepted.state, accepted.step, accepted.result) == (JobState.RUNNING, Step.PUBLISH, RESULT)


def test_a_creator_has_so_many_under_way_and_no_more(counter: Counter) -> None:
    jobs = [counter.create() for _ in range(MAX_PENDING)]
    with pytest.raises(TooManyAdapters):
        counter.create()
    counter.adapters.cancel(jobs[0].id, CREATOR)
    assert counter.create().id


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("adapter_model.bin", "pickle files can run code"),
        ("training_args.PT", "pickle files can run code"),
        ("attribution.safetensors", "cannot be proven"),
        ("README.md", "a model card is generated"),
        ("../adapter_config.json", "consists of"),
        ("/etc/passwd", "consists of"),
        ("", "consists of"),
        ("adapter_config.json ", "consists of"),
        ("x" * 10_000, "consists of"),
    ],
)
def test_no_other_file_is_taken(counter: Counter, name: str, reason: str) -> None:
    files = counter.files | {name: counter.files[CONFIG_FILE]}
    with pytest.raises(UnexpectedFile, match=reason) as refusal:
        counter.adapters.create(CREATOR, "MIT", files)
    assert refusal.value.param == name[:100]
    assert not counter.adapters.list(CREATOR)


def wrong(counter: Counter, case: str) -> dict[str, str]:
    transfers, files = counter.transfers, counter.files
    if case == "missing":
        return {CONFIG_FILE: files[CONFIG_FILE]}
    if case == "unknown":
        return files | {WEIGHTS_FILE: "transfer-" + "0" * 32}
    if case == "no id":
        return files | {WEIGHTS_FILE: "../../../etc/passwd"}
    if case == "another's":
        return files | {WEIGHTS_FILE: transferred(transfers, OTHER_CREATOR, b"{}")}
    if case == "unfinished":
        return files | {WEIGHTS_FILE: transfers.create(CREATOR, 5).id}
    return files | {CONFIG_FILE: transferred(transfers, CREATOR, bytes((1 << 20) + 1))}


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("missing", FileMissing),
        ("unknown", NotFound),
        ("no id", NotFound),
        ("another's", NotFound),
        ("unfinished", TransferUnfinished),
        ("too large", UploadTooLarge),
    ],
)
def test_files_that_are_not_there_or_too_large_are_refused_at_once(
    counter: Counter, case: str, error: type[DomainError]
) -> None:
    with pytest.raises(error):
        counter.adapters.create(CREATOR, "MIT", wrong(counter, case))
    assert not counter.adapters.list(CREATOR)
    assert not counter.harness.offers()


def test_a_licence_has_to_be_stated(counter: Counter) -> None:
    for licence in ("", "mine"):
        with pytest.raises(UnknownLicence):
            counter.adapters.create(CREATOR, licence, counter.files)


def test_pages_go_on_behind_the_last_one(counter: Counter) -> None:
    first = counter.create()
    counter.harness.wait(1)
    second = counter.create()
    assert [job.id for job in counter.adapters.list(CREATOR, 1)] == [second.id]
    assert [job.id for job in counter.adapters.list(CREATOR, 1, second.id)] == [first.id]


def test_an_import_whose_copies_do_not_fit_is_refused(
    counter: Counter, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = sum(counter.transfers.get(CREATOR, each).num_bytes for each in counter.files.values())
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=COPIES * num_bytes - 1))
    with pytest.raises(DiskFull):
        counter.create()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=COPIES * num_bytes))
    counter.create()
