"""Fine-tuning jobs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, status
from fastapi.sse import EventSourceResponse, ServerSentEvent

from backend.api.deps import CallerDep, ServicesDep, WalletDep
from backend.api.idempotency import IdempotentRoute
from backend.api.paging import PagingDep
from backend.api.schemas.common import INTEGERS_END, Page
from backend.api.schemas.fine_tuning import (
    CreateJobRequest,
    JobEventView,
    JobView,
    RegistrationRequest,
    RegistrationView,
)
from backend.domain.ids import Hash32, SnapshotId

router = APIRouter(prefix="/v1/fine_tuning/jobs", tags=["fine-tuning"], route_class=IdempotentRoute)

POLL_SECONDS = 0.5


def require_job(job_id: str, services: ServicesDep) -> None:
    """Before a stream begins, so that an unknown job is a 404."""
    services.training.get(job_id)


@router.post("", status_code=status.HTTP_201_CREATED)
def create_job(body: CreateJobRequest, services: ServicesDep, wallet: WalletDep) -> JobView:
    snapshot = SnapshotId(Hash32(body.snapshot_id))
    return JobView.of(services.training.create(wallet.account, snapshot, body.hyperparameters))


@router.get("")
def list_jobs(services: ServicesDep, caller: CallerDep, paging: PagingDep) -> Page[JobView]:
    """The caller's own, newest first."""
    found = services.training.list(caller.account, paging.limit + 1, paging.after)
    return paging.page(found, lambda job: job.id, JobView.of)


@router.get("/{job_id}")
def get_job(job_id: str, services: ServicesDep) -> JobView:
    return JobView.of(services.training.get(job_id))


@router.post("/{job_id}/cancel")
def cancel_job(job_id: str, services: ServicesDep, wallet: WalletDep) -> JobView:
    return JobView.of(services.training.cancel(job_id, wallet.account))


@router.post("/{job_id}/registration/prepare")
def prepare_registration(
    job_id: str, body: RegistrationRequest, services: ServicesDep, wallet: WalletDep
) -> RegistrationView:
    """The creator's own transaction; the job's `version_id` tells when the chain has confirmed it."""
    registration = services.publication.prepare(
        job_id, wallet.account, body.listing(), accepts_worse=body.accepts_worse
    )
    return RegistrationView.of(registration)


@router.get("/{job_id}/events")
def list_events(
    job_id: str,
    services: ServicesDep,
    after: Annotated[int, Query(ge=0, lt=INTEGERS_END)] = 0,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> Page[JobEventView]:
    """Oldest first; `after` is the last page's `next_cursor`."""
    found = [JobEventView.of(event) for event in services.training.events(job_id, after, limit)]
    return Page(data=found, next_cursor=str(found[-1].seq) if len(found) == limit else None)


@router.get(
    "/{job_id}/events/stream", response_class=EventSourceResponse, dependencies=[Depends(require_job)]
)
async def stream_events(
    job_id: str,
    services: ServicesDep,
    last_event_id: Annotated[int, Header(ge=0, lt=INTEGERS_END)] = 0,
) -> AsyncIterator[ServerSentEvent]:
    """Events as they happen, from after `Last-Event-ID` on, until the job is over."""
    after = last_event_id
    while True:
        is_over = (await asyncio.to_thread(services.training.get, job_id)).is_over
        for event in await asyncio.to_thread(services.training.events, job_id, after):
            after = event.seq
            yield ServerSentEvent(data=JobEventView.of(event), event=event.kind, id=str(event.seq))
        if is_over:
            return
        await asyncio.sleep(POLL_SECONDS)
