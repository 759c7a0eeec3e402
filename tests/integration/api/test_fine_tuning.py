"""The stock `openai` client's `fine_tuning` calls, against the API."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI

from backend.domain.hashing import version_id
from backend.domain.ids import Cid
from backend.domain.money import AMOUNT, PRICE
from backend.domain.training import JobState, Step
from backend.services.train.leases import Leases
from tests.integration.api.conftest import FUNDS
from tests.support.market import some_hash
from tests.support.scripted_installation import TRAINING_PRICE
from tests.unit.workers.support import DATASET, RESULT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.api.conftest import Api
    from tests.support.scripted_installation import ScriptedInstallation

SNAPSHOT = some_hash("snapshot")
NUM_ROWS = 20


@pytest.fixture(autouse=True)
def _recorded(installation: ScriptedInstallation) -> None:
    installation.record_rows(NUM_ROWS)


@pytest.fixture
def client(api: Api) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{api.url}/v1", api_key=api.session, max_retries=0) as client:
        yield client


@pytest.fixture
def leases(api: Api) -> Leases:
    return Leases(api.installation.db, api.installation.payments, api.installation.clock)


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


def test_a_job_shows_what_is_kept_and_then_what_it_cost(client: OpenAI, api: Api, leases: Leases) -> None:
    wanted = {"training_file": SNAPSHOT, "hyperparameters": {"n_epochs": 1, "max_length": 50}}
    with api.http(api.session) as http:
        estimate = http.post("/v1/fine_tuning/jobs/estimate", json=wanted).json()
        job = http.post("/v1/fine_tuning/jobs", json=wanted).json()
        kept, most = job["payment"], NUM_ROWS * 50 * TRAINING_PRICE
        assert estimate["price"] == kept["price"] == PRICE.render(TRAINING_PRICE)
        assert estimate["num_charged_tokens"] == 90
        assert estimate["charge"] == AMOUNT.render(90 * TRAINING_PRICE)
        assert (kept["max_charge"], kept["charge"], kept["receipt_id"]) == (AMOUNT.render(most), None, None)
        channel = http.get("/v1/channels").json()["data"][0]
        assert (channel["id"], channel["available"]) == (kept["channel_id"], AMOUNT.render(FUNDS - most))
        publish(leases, job["id"], num_tokens=60)
        paid = http.get(f"/v1/fine_tuning/jobs/{job['id']}").json()
        receipt = http.get(f"/v1/receipts/{paid['payment']['receipt_id']}").json()
        usage = http.get("/v1/usage", params={"first": "2026-05-04", "last": "2026-05-04"}).json()["data"]
    assert paid["trained_tokens"] == receipt["receipt"]["prompt_tokens"] == 60
    assert paid["metrics"]["num_trained_tokens"] == 8
    assert paid["payment"]["charge"] == receipt["charge"] == AMOUNT.render(60 * TRAINING_PRICE)
    assert receipt["receipt"]["charge"] == str(60 * TRAINING_PRICE)
    assert [used["spend"] for used in usage] == [paid["payment"]["charge"]]
    assert client.fine_tuning.jobs.retrieve(job["id"]).trained_tokens == 60
    events = client.fine_tuning.jobs.list_events(job["id"])
    charged = next(event for event in events if event.message.startswith("Charged"))
    assert charged.message.startswith("Charged 0.00000000012 dollars for 60 tokens: receipt 0x")
    assert charged.data["charge"] == AMOUNT.render(120)  # type: ignore[index]


CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")


def publish(leases: Leases, job_id: str, num_tokens: int, cid: Cid = CID) -> None:
    """What workers make of a job."""
    metrics = {**RESULT.metrics, "num_trained_tokens": 8, "num_charged_tokens": num_tokens}
    for step in Step:
        held = leases.acquire(job_id, step)
        assert held is not None
        if step is Step.VALIDATE:
            leases.complete_validation(held, DATASET)
        elif step is Step.TRAIN:
            leases.complete_training(held, replace(RESULT, metrics=metrics))
        else:
            leases.complete_publication(held, cid)


def test_a_repeated_request_with_a_key_gets_its_job(api: Api) -> None:
    wanted, path = {"snapshot_id": SNAPSHOT, "hyperparameters": {"rank": 4}}, "/v1/fine_tuning/jobs"
    with api.http(api.session) as http:

        def create(key: str, **changes: Any) -> Any:
            return http.post(path, json=wanted | changes, headers={"idempotency-key": key})

        job = create("one").json()["id"]
        http.post(f"{path}/{job}/cancel")
        again = create('"one"')
        assert (again.status_code, again.json()["id"], again.json()["status"]) == (201, job, "cancelled")
        other = create("one", seed=8)
        assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_key_reused")
        assert create("a b").status_code == 400
        assert create("two").json()["id"] != job
        assert len(http.get(path).json()["data"]) == 2


def test_who_cannot_pay_for_a_job_is_told_what_is_missing(api: Api) -> None:
    api.installation.fund(100)
    wanted = {"training_file": SNAPSHOT, "hyperparameters": {"n_epochs": 1, "max_length": 50}}
    with api.http(api.session) as http:
        refusal = http.post("/v1/fine_tuning/jobs", json=wanted)
        assert http.get("/v1/fine_tuning/jobs").json()["data"] == []
    error = refusal.json()["error"]
    assert (refusal.status_code, error["code"]) == (402, "insufficient_balance")
    lack = AMOUNT.render(NUM_ROWS * 50 * TRAINING_PRICE - 100)
    assert error["details"]["missing"] == {"balance": lack, "authorisation": lack}


def test_training_is_no_model_to_ask(api: Api) -> None:
    version, operator = version_id(api.installation.training_record), api.installation.operator
    with api.http() as http:
        assert "training" not in http.get("/v1/models").text
        for name in (version, f"{operator}/training"):
            refusal = http.post("/v1/completions", json={"model": name, "prompt": "a"})
            assert (refusal.status_code, refusal.json()["error"]["code"]) == (404, "model_not_found")


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
    held = leases.acquire(job.id, Step.VALIDATE)
    assert held is not None
    for step in (20, 40, 60):
        leases.record_event(held, "checkpoint", {"step": step, "loss": 3.0 - step / 100})
    found = list(jobs.checkpoints.list(job.id, limit=2))
    assert [checkpoint.step_number for checkpoint in found] == [60, 40, 20]
    assert found[0].metrics.train_loss == pytest.approx(2.4)
    assert found[0].fine_tuning_job_id == job.id
    page = jobs.checkpoints.list(job.id, after=found[0].id, limit=1)
    assert ([checkpoint.step_number for checkpoint in page.data], page.has_more) == ([40], True)
    other = jobs.create(model="tiny", training_file=SNAPSHOT)
    for unknown in (found[0].id + "0", found[0].id.replace(job.id[6:], other.id[6:])):
        with pytest.raises(NotFoundError):
            jobs.checkpoints.list(job.id, after=unknown)


def test_a_failed_job_says_why_in_openais_shape(client: OpenAI, leases: Leases) -> None:
    job = client.fine_tuning.jobs.create(model="tiny", training_file=SNAPSHOT)
    held = leases.acquire(job.id, Step.VALIDATE)
    assert held is not None
    leases.fail(held, {"code": "non_finite_loss", "message": "the loss is nan at step 5", "step": 5})
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
