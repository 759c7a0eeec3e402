from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.domain.errors import Conflict, Forbidden, NotFound
from backend.domain.ids import Cid, Hash32, SnapshotId
from backend.domain.training import (
    LINEAR_LAYERS,
    MAX_BATCH_TOKENS,
    EmptySnapshot,
    JobState,
    Step,
    TrainingConfig,
)
from backend.services.train import (
    LONGEST_OFFER_SECONDS,
    MAX_ATTEMPTS,
    OFFER_SECONDS,
    InvalidConfig,
    LeaseLost,
    parse_config,
)
from tests.unit.workers.support import CREATOR, DATASET, RESULT, STRANGER, Desk

if TYPE_CHECKING:
    from backend.db.unit_of_work import Database

CID = Cid("bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi")


@pytest.fixture
def desk(database: Database) -> Desk:
    """On SQLite and on PostgreSQL: the lease is what the database makes of it."""
    return Desk(database)


def taken(desk: Desk, step: Step = Step.VALIDATE, **config: Any) -> Any:
    held = desk.leases.take(desk.job(**config).id, step)
    assert held is not None
    return held


def test_options_default_and_are_kept_as_given() -> None:
    assert parse_config({}) == TrainingConfig()
    config = parse_config({"rank": 4, "epochs": 3, "targets": ["v_proj", "q_proj"], "variant": "rslora"})
    assert (config.rank, config.epochs, config.variant) == (4, 3.0, "rslora")
    assert config.targets == ("q_proj", "v_proj")
    assert parse_config({"targets": "all-linear"}).targets == LINEAR_LAYERS


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("rank", 0),
        ("rank", 129),
        ("rank", 8.0),
        ("rank", True),
        ("rank", "8"),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", None),
        ("dropout", 0.9),
        ("epochs", float("inf")),
        ("eval_fraction", 0.0),
        ("max_length", 8),
        ("seed", -1),
        ("seed", 2**32),
        ("variant", "dora"),
        ("scheduler", ["cosine"]),
        ("targets", []),
        ("targets", "q_proj"),
        ("targets", ["q_proj", "embed_tokens"]),
        ("targets", [["q_proj"]]),
        ("warmup", 0.1),
    ],
)
def test_an_option_out_of_range_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(InvalidConfig) as refusal:
        parse_config({option: value})
    assert refusal.value.param == option
    assert option in refusal.value.message


def test_a_batch_that_no_machine_holds_is_refused() -> None:
    assert parse_config({"batch_size": 64, "max_length": MAX_BATCH_TOKENS // 64})
    with pytest.raises(InvalidConfig, match=str(MAX_BATCH_TOKENS)) as refusal:
        parse_config({"batch_size": 65, "max_length": MAX_BATCH_TOKENS // 64})
    assert refusal.value.param == "batch_size"


@given(
    st.dictionaries(
        st.text(max_size=12) | st.sampled_from(["rank", "targets", "seed"]), st.integers() | st.text()
    )
)
def test_any_options_either_parse_or_are_refused(raw: dict[str, Any]) -> None:
    try:
        assert isinstance(parse_config(raw), TrainingConfig)
    except InvalidConfig as refusal:
        assert refusal.param in raw  # noqa: PT017


def test_a_new_job_is_recorded_and_offered(desk: Desk) -> None:
    job = desk.job(rank=4)
    assert desk.training.get(job.id) == job
    assert (job.state, job.config.rank) == (JobState.VALIDATING, 4)
    assert desk.offers() == [("training.validate", job.id)]
    assert [event.data["state"] for event in desk.events(job)] == ["validating"]


def test_a_snapshot_must_exist_and_hold_something(desk: Desk) -> None:
    with pytest.raises(NotFound):
        desk.training.create(CREATOR, SnapshotId(Hash32("0x" + "99" * 32)), {})
    with pytest.raises(EmptySnapshot):
        desk.training.create(CREATOR, desk.snapshot(False, False), {})
    assert not desk.training.list()


def test_jobs_are_listed_by_creator_newest_first(desk: Desk) -> None:
    first = desk.job()
    desk.wait(1)
    second = desk.job()
    assert [job.id for job in desk.training.list(CREATOR)] == [second.id, first.id]
    assert [job.id for job in desk.training.list(CREATOR, limit=1)] == [second.id]
    assert not desk.training.list(STRANGER)


def test_a_job_passes_through_all_its_states(desk: Desk) -> None:
    held = taken(desk)
    desk.leases.validated(held, DATASET)
    job = desk.training.get(held.job.id)
    assert (job.state, job.dataset) == (JobState.QUEUED, DATASET)

    held = desk.leases.take(job.id, Step.TRAIN)
    assert held is not None
    assert desk.training.get(job.id).state is JobState.RUNNING
    desk.leases.report(held, "progress", {"step": 1, "loss": 2.0})
    desk.leases.trained(held, RESULT)
    assert desk.training.get(job.id).state is JobState.RUNNING

    held = desk.leases.take(job.id, Step.PUBLISH)
    assert held is not None
    desk.leases.published(held, CID)
    job = desk.training.get(job.id)
    assert (job.state, job.cid, job.result, job.finished_at) == (JobState.SUCCEEDED, CID, RESULT, desk.now)
    assert [topic for topic, _ in desk.offers()] == [
        "training.validate",
        "training.train",
        "training.publish",
    ]
    kinds = [event.kind for event in desk.events(job)]
    assert kinds == ["state", "state", "dataset", "state", "state", "progress", "state", "published", "state"]
    assert [event.seq for event in desk.events(job)] == list(range(1, 10))
    assert [event.seq for event in desk.training.events(job.id, after=7)] == [8, 9]


def test_jobs_are_shown_while_somebody_writes(desk: Desk) -> None:
    job = desk.job()
    with desk.database.begin():
        assert desk.training.get(job.id) == job
        assert desk.training.list() == [job]
        assert len(desk.training.events(job.id)) == 1


def test_only_one_worker_takes_a_step(desk: Desk) -> None:
    held = taken(desk)
    assert desk.leases.take(held.job.id, Step.VALIDATE) is None


def test_of_workers_that_reach_for_a_step_at_once_one_gets_it(desk: Desk) -> None:
    job = desk.job()
    start = threading.Barrier(6)

    def reach(_: int) -> object:
        start.wait()
        return desk.leases.take(job.id, Step.VALIDATE)

    with ThreadPoolExecutor(6) as pool:
        taken_by = [held for held in pool.map(reach, range(6)) if held is not None]
    assert len(taken_by) == 1
    assert desk.training.get(job.id).lease.attempt == 1


def test_a_step_out_of_turn_is_not_taken(desk: Desk) -> None:
    job = desk.job()
    assert desk.leases.take(job.id, Step.TRAIN) is None
    assert desk.leases.take(job.id, Step.PUBLISH) is None
    assert desk.leases.take("ftjob-none", Step.TRAIN) is None


def test_a_heartbeat_keeps_the_lease(desk: Desk) -> None:
    held = taken(desk)
    for _ in range(5):
        desk.wait(20)
        assert desk.leases.renew(held)
        assert desk.leases.take(held.job.id, Step.VALIDATE) is None
    assert desk.training.get(held.job.id).lease.heartbeat_at == desk.now


def test_an_expired_lease_passes_on_and_its_former_owner_can_write_nothing(desk: Desk) -> None:
    held = taken(desk)
    desk.wait(31)
    second = desk.leases.take(held.job.id, Step.VALIDATE)
    assert second is not None
    assert second.job.lease.attempt == 2
    assert not desk.leases.renew(held)
    for write in (
        lambda: desk.leases.report(held, "progress", {}),
        lambda: desk.leases.validated(held, DATASET),
        lambda: desk.leases.release(held),
        lambda: desk.leases.failed(held, {"code": "x", "message": "x"}),
    ):
        with pytest.raises(LeaseLost):
            write()
    desk.leases.validated(second, DATASET)


def test_a_lapsed_job_is_offered_again_until_somebody_takes_it(desk: Desk) -> None:
    held = taken(desk)
    assert desk.leases.offer_lapsed() == 0
    desk.wait(31)
    assert desk.leases.offer_lapsed() == 1
    assert desk.leases.offer_lapsed() == 0
    desk.wait(OFFER_SECONDS + 1)
    assert desk.leases.offer_lapsed() == 1
    assert desk.offers() == [("training.validate", held.job.id)] * 3


def test_offers_that_nobody_takes_become_rarer(desk: Desk) -> None:
    desk.job()
    offered_at = []
    for second in range(0, 3600, 10):
        offered_at += [second] * desk.leases.offer_lapsed()
        desk.wait(10)
    waits = [after - before for before, after in pairwise([0, *offered_at])]
    assert waits[:5] == [30, 30, 60, 120, 240]
    assert set(waits[6:]) == {LONGEST_OFFER_SECONDS}


def test_a_finished_job_is_never_offered(desk: Desk) -> None:
    held = taken(desk)
    desk.leases.failed(held, {"code": "empty_snapshot", "message": "nothing"})
    desk.wait(10_000)
    assert desk.leases.offer_lapsed() == 0


def test_cancelling_stops_the_worker_and_ends_the_job(desk: Desk) -> None:
    held = taken(desk)
    assert desk.training.cancel(held.job.id, CREATOR).state is JobState.CANCELLED
    assert not desk.leases.renew(held)
    with pytest.raises(LeaseLost):
        desk.leases.validated(held, DATASET)
    assert desk.leases.take(held.job.id, Step.VALIDATE) is None
    assert desk.training.cancel(held.job.id, CREATOR).state is JobState.CANCELLED


def test_only_the_creator_cancels_and_only_what_is_not_over(desk: Desk) -> None:
    held = taken(desk)
    with pytest.raises(Forbidden):
        desk.training.cancel(held.job.id, STRANGER)
    desk.leases.failed(held, {"code": "x", "message": "x"})
    with pytest.raises(Conflict):
        desk.training.cancel(held.job.id, CREATOR)
    with pytest.raises(NotFound):
        desk.training.cancel("ftjob-none", CREATOR)


def test_a_step_that_kills_its_workers_is_given_up(desk: Desk) -> None:
    job = desk.job()
    for _ in range(MAX_ATTEMPTS):
        assert desk.leases.take(job.id, Step.VALIDATE) is not None
        desk.wait(31)
    assert desk.leases.take(job.id, Step.VALIDATE) is None
    job = desk.training.get(job.id)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "given_up"


def test_a_step_that_gets_further_each_time_is_not_given_up(desk: Desk) -> None:
    job = desk.job()
    for _ in range(2 * MAX_ATTEMPTS):
        held = desk.leases.take(job.id, Step.VALIDATE)
        assert held is not None
        desk.leases.report(held, "checkpoint", {"step": 1})
        desk.wait(31)


def test_work_given_back_by_a_stopping_worker_does_not_count_as_an_attempt(desk: Desk) -> None:
    job = desk.job()
    for _ in range(2 * MAX_ATTEMPTS):
        held = desk.leases.take(job.id, Step.VALIDATE)
        assert held is not None
        desk.leases.release(held)
        assert desk.leases.offer_lapsed() == 1
        desk.wait(1)


def test_a_failed_attempt_waits_before_it_is_offered_again(desk: Desk) -> None:
    held = taken(desk)
    desk.leases.release(held, "the block store is away")
    assert desk.leases.offer_lapsed() == 0
    desk.wait(3)
    assert desk.leases.offer_lapsed() == 1
    assert desk.events(held.job)[-1].data == {"message": "the block store is away", "attempt": 1}


def test_stale_messages_do_not_burn_the_attempts_of_a_step_that_rests(desk: Desk) -> None:
    held = taken(desk)
    waits = []
    for _ in range(MAX_ATTEMPTS - 1):
        desk.leases.release(held, "the block store is away")
        with pytest.raises(LeaseLost):
            desk.leases.report(held, "progress", {})
        waits.append(0)
        while (again := desk.leases.take(held.job.id, Step.VALIDATE)) is None:
            desk.wait(1)
            waits[-1] += 1
        held = again
    assert waits == [2, 4, 8, 16]


def test_a_missing_adapter_is_asked_for_with_growing_pauses(desk: Desk) -> None:
    held = taken(desk)
    desk.leases.without_adapter(held)
    assert desk.leases.take(held.job.id, Step.VALIDATE) is None
    desk.wait(2)
    assert desk.leases.take(held.job.id, Step.VALIDATE) is not None
