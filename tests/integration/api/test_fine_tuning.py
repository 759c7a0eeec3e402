"""The stock `openai` client's `fine_tuning` calls, against the API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from openai import BadRequestError, ConflictError, OpenAI

from backend.domain.training import JobState, Step
from backend.services.train.leases import Leases
from tests.support.market import some_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.api.conftest import Api

SNAPSHOT = some_hash("snapshot")


@pytest.fixture
def client(api: Api) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{api.url}/v1", api_key=api.session, max_retries=0) as client:
        yield client


@pytest.fixture
def leases(api: Api) -> Leases:
    return Leases(api.installation.database.begin)


def test_a_job_is_created_watched_and_cancelled_by_the_stock_client(client: OpenAI) -> None:
    jobs = client.fine_tuning.jobs
    method = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": "auto"}}}
    job = jobs.create(model="tiny", training_file=SNAPSHOT, seed=7, method=method)  # type: ignore[arg-type]
    assert (job.object, job.status, job.model, job.seed) == ("fine_tuning.job", "validating_files", "tiny", 7)
    assert (job.training_file, job.hyperparameters.n_epochs) == (SNAPSHOT, 3)
    assert job.hyperparameters.batch_size == 8
    assert (job.error, job.fine_tuned_model, job.trained_tokens) == (None, None, None)
    assert jobs.retrieve(job.id) == job
    assert jobs.cancel(job.id).status == "cancelled"
    events = list(jobs.list_events(job.id, limit=1))  # goes on from page to page
    assert [event.message for event in events] == ["The job is validating.", "The job is cancelled."]
    assert {(event.object, event.level) for event in events} == {("fine_tuning.job.event", "info")}


def test_model_may_name_an_adapter_to_go_on_from(client: OpenAI, api: Api) -> None:
    jobs, adapter = client.fine_tuning.jobs, api.installation.version
    for name in (adapter, next(model.id for model in client.models.list() if "/" in model.id)):
        job = jobs.create(model=name, training_file=SNAPSHOT)
        assert job.model == "tiny"
        assert job.hyperparameters.parent == adapter  # type: ignore[attr-defined]
    another = {"hyperparameters": {"parent": some_hash("another")}}
    with pytest.raises(BadRequestError, match="name different adapters"):
        jobs.create(model=adapter, training_file=SNAPSHOT, extra_body=another)


def test_lists_go_on_where_the_last_page_ended(client: OpenAI) -> None:
    jobs = client.fine_tuning.jobs
    made = [jobs.create(model="tiny", training_file=SNAPSHOT).id for _ in range(5)]
    page = jobs.list(limit=5)
    assert page.has_more is False
    assert {job.id for job in page.data} == set(made)
    assert [job.id for job in jobs.list(limit=2)] == [job.id for job in page.data]
    with pytest.raises(BadRequestError):
        jobs.list(after="ftjob-none")


def test_checkpoints_come_newest_first_with_their_losses(client: OpenAI, leases: Leases) -> None:
    jobs = client.fine_tuning.jobs
    job = jobs.create(model="tiny", training_file=SNAPSHOT)
    held = leases.take(job.id, Step.VALIDATE)
    assert held is not None
    for step in (20, 40, 60):
        leases.report(held, "checkpoint", {"step": step, "loss": 3.0 - step / 100})
    found = list(jobs.checkpoints.list(job.id, limit=2))
    assert [checkpoint.step_number for checkpoint in found] == [60, 40, 20]
    assert found[0].metrics.train_loss == pytest.approx(2.4)
    assert found[0].fine_tuning_job_id == job.id


def test_a_failed_job_says_why_in_openais_shape(client: OpenAI, leases: Leases) -> None:
    job = client.fine_tuning.jobs.create(model="tiny", training_file=SNAPSHOT)
    held = leases.take(job.id, Step.VALIDATE)
    assert held is not None
    leases.failed(held, {"code": "non_finite_loss", "message": "the loss is nan at step 5", "step": 5})
    failed = client.fine_tuning.jobs.retrieve(job.id)
    assert failed.status == JobState.FAILED
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("non_finite_loss", "the loss is nan at step 5")
    with pytest.raises(ConflictError):
        client.fine_tuning.jobs.cancel(job.id)
    levels = {event.message: event.level for event in client.fine_tuning.jobs.list_events(job.id)}
    assert levels["the loss is nan at step 5"] == "error"


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "another"}, "model"),
        ({"training_file": "upload-0123456789abcdef"}, "training_file"),
        ({"extra_body": {"snapshot_id": SNAPSHOT}}, "snapshot_id"),
        ({"hyperparameters": {"n_epochs": 1000}}, "epochs"),
        (
            {
                "hyperparameters": {"n_epochs": 1},
                "extra_body": {"hyperparameters": {"n_epochs": 1, "epochs": 1}},
            },
            "n_epochs",
        ),
        ({"hyperparameters": {"learning_rate_multiplier": "fast"}}, "learning_rate_multiplier"),
        ({"hyperparameters": {"seed": 1}, "seed": 2}, "seed"),
        ({"suffix": "mine"}, "suffix"),
        ({"hyperparameters": {"quantization": "4bit"}}, "quantization"),
        ({"hyperparameters": {"parent": "mine"}}, "parent"),
        ({"method": {"type": "dpo"}}, "method.type"),
    ],
)
def test_what_a_job_cannot_be_asked_for_is_refused_by_name(
    client: OpenAI, changes: dict[str, Any], param: str
) -> None:
    wanted = {"model": "tiny", "training_file": SNAPSHOT} | changes
    with pytest.raises(BadRequestError) as refusal:
        client.fine_tuning.jobs.create(**wanted)
    assert refusal.value.param == param
