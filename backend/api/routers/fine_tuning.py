"""Fine-tuning jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, status
from fastapi.sse import EventSourceResponse, ServerSentEvent

from backend.api.deps import PUBLIC, CallerDep, ServicesDep, WalletDep, hold_stream
from backend.api.idempotency import IdempotentRoute, KeyDep, takes_key
from backend.api.schemas.common import INTEGERS_END, CursorPage
from backend.api.schemas.fine_tuning import (
    CHECKPOINT_ID,
    EVENT_ID,
    CheckpointView,
    CreateJobRequest,
    EstimateView,
    JobEventView,
    JobView,
    RegistrationRequest,
    RegistrationView,
    checkpoint_id,
)
from backend.api.services import Services
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.ids import Account, Hash32
from backend.domain.training import TrainingJob
from backend.services.market.catalogue import ModelNotFound

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=IdempotentRoute)

POLL_SECONDS = 0.5


def require_job(job_id: str, services: ServicesDep) -> None:
    """Dependency that returns a 404 for an unknown job before a stream starts."""
    services.training.get(job_id)


@router.post("", status_code=status.HTTP_201_CREATED)
@takes_key
def create_job(body: CreateJobRequest, services: ServicesDep, wallet: WalletDep, key: KeyDep) -> JobView:
    """Train an adapter on a snapshot; `training_file` is OpenAI's name of `snapshot_id`. `model`: a base
    model, by default the first one that is trained, or an adapter to continue from, whose snapshots must be
    contained in the job's snapshot.
    """
    options, base = _start(body, services, wallet.account)
    return _view(services, services.training.create(wallet.account, body.snapshot(), options, key, base))


@router.post("/estimate")
def estimate_job(body: CreateJobRequest, services: ServicesDep, wallet: WalletDep) -> EstimateView:
    """Estimate the steps, tokens, cost and time of a job, and preview tokenised rows. No job is created."""
    options, base = _start(body, services, wallet.account)
    found = services.estimates.estimate(wallet.account, body.snapshot(), options, base)
    return EstimateView.model_validate(found)


@router.get("")
def list_jobs(
    services: ServicesDep,
    caller: CallerDep,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> CursorPage[JobView]:
    """List the caller's jobs, newest first."""
    found = services.training.list(caller.account, limit + 1, after)
    return CursorPage[JobView].of([_view(services, job) for job in found], limit)


@router.get("/{job_id}", dependencies=PUBLIC)
def get_job(job_id: str, services: ServicesDep) -> JobView:
    """Retrieve a job."""
    return _view(services, services.training.get(job_id))


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, services: ServicesDep, wallet: WalletDep) -> JobView:
    """Cancel a job. Its worker stops within seconds."""
    return _view(services, services.training.cancel(job_id, wallet.account))


@router.post("/{job_id}/registration/prepare")
def prepare_registration(
    job_id: str, body: RegistrationRequest, services: ServicesDep, wallet: WalletDep
) -> RegistrationView:
    """Prepare the transaction with which the creator registers the adapter. The job's `version_id` is set
    once the chain confirms it.
    """
    registration = services.publication.prepare(
        job_id,
        wallet.account,
        body.listing(),
        accepts_worse=body.accepts_worse,
        accepts_copy=body.accepts_copy,
    )
    return RegistrationView.model_validate(registration)


@router.get("/{job_id}/events", dependencies=PUBLIC)
def list_events(
    job_id: str,
    services: ServicesDep,
    after: Annotated[str, Query(pattern=EVENT_ID)] = "0",
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> CursorPage[JobEventView]:
    """List events, oldest first. `after`: id or number of an event."""
    found = services.training.events(job_id, int(after.rpartition("-")[2]), limit + 1)
    return CursorPage[JobEventView].of([JobEventView.of(event) for event in found], limit)


@router.get("/{job_id}/checkpoints", dependencies=PUBLIC)
def list_checkpoints(
    job_id: str,
    services: ServicesDep,
    after: Annotated[str | None, Query(pattern=CHECKPOINT_ID)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 10,
) -> CursorPage[CheckpointView]:
    """List checkpoints, newest first. A worker that takes over a job resumes from the latest. Checkpoints are
    not served.
    """
    step = None if after is None else int(after.rpartition("-")[2])
    if step is not None and after != checkpoint_id(job_id, step):
        raise NotFound(f"{after} is no checkpoint of {job_id}.", param="after")
    found = services.training.checkpoints(job_id, limit + 1, step)
    return CursorPage[CheckpointView].of([CheckpointView.of(event) for event in found], limit)


@router.get(
    "/{job_id}/events/stream",
    response_class=EventSourceResponse,
    dependencies=[*PUBLIC, Depends(hold_stream), Depends(require_job)],
)
async def stream_events(
    job_id: str,
    services: ServicesDep,
    last_event_id: Annotated[int, Header(ge=0, lt=INTEGERS_END)] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Stream events after `Last-Event-ID` until the job ends."""
    after = last_event_id
    while True:
        is_over = (await asyncio.to_thread(services.training.get, job_id)).is_over
        for event in await asyncio.to_thread(services.training.events, job_id, after):
            after = event.seq
            yield ServerSentEvent(data=JobEventView.of(event), event=event.kind, id=str(event.seq))
        if is_over:
            return
        await asyncio.sleep(POLL_SECONDS)


def _start(
    body: CreateJobRequest, services: Services, account: Account
) -> tuple[dict[str, Any], Hash32 | None]:
    """Options of the job, with the adapter `model` as the parent, and the base model that `model` names.

    Errors: `InvalidInput`, those of resolving it.
    """
    options = body.options()
    if body.model is None:
        return options, None
    base = services.catalogue.find_base(body.model)
    if base is not None:
        return options, base.digest
    try:
        model = services.catalogue.resolve(body.model, account)
    except ModelNotFound as error:
        bases = " or ".join(repr(each.name) for each in services.catalogue.bases)
        message = (
            f"A job starts from the base model, {bases}, or an adapter served here, not from {body.model!r}."
        )
        raise InvalidInput(message, param="model") from error
    if options.setdefault("parent", model.id) != model.id:
        raise InvalidInput("model and parent name different adapters: give one of them.", param="parent")
    return options, None


def _view(services: Services, job: TrainingJob) -> JobView:
    return JobView.of(job, services.catalogue.base_name(job.base))
