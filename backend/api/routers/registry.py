"""Datanets, snapshots, versions and operators from the chain, and the operator's transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, status
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from backend.api.deps import PUBLIC, CallerDep, ServicesDep, WalletDep, get_admitted, hold_stream
from backend.api.idempotency import IdempotentRoute
from backend.api.paging import PagingDep
from backend.api.schemas.common import (
    INTEGERS_END,
    AccountField,
    HashField,
    Page,
    PreparedTransactionView,
)
from backend.api.schemas.registry import (
    BatchView,
    CreateDatanetRequest,
    DatanetView,
    FreezeRequest,
    OperatorCardView,
    OperatorView,
    PendingSnapshotView,
    RecordedContribution,
    ReviewRequest,
    SnapshotView,
    TransactionView,
    VersionRecordBody,
    VersionView,
)
from backend.domain.ids import Account, DatanetId, Hash32, SnapshotId, VersionId
from backend.domain.transactions import TransactionState

router = APIRouter(prefix="/v1", tags=["registry"], route_class=IdempotentRoute)

Number = Annotated[int, Path(ge=0, lt=INTEGERS_END)]
POLL_SECONDS = 0.5
LAST_STATES = {TransactionState.CONFIRMED, TransactionState.FAILED}


@router.get("/datanets", dependencies=PUBLIC)
def list_datanets(services: ServicesDep, paging: PagingDep) -> Page[DatanetView]:
    """List datanets, oldest first."""
    found = services.registry.datanets(paging.after_number, paging.limit + 1)
    return paging.page(found, lambda datanet: datanet.id, DatanetView.model_validate)


@router.post("/datanets/prepare")
def prepare_datanet(
    body: CreateDatanetRequest, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    """Publish the description, and prepare the transaction that creates the datanet. A day later the
    description is deleted unless a datanet has it.
    """
    prepared = services.registry.prepare_datanet(wallet.account, body.name, body.description, body.licence)
    return PreparedTransactionView.model_validate(prepared)


@router.get("/datanets/{datanet}", dependencies=PUBLIC)
def get_datanet(datanet: Number, services: ServicesDep) -> DatanetView:
    """Retrieve a datanet."""
    return DatanetView.model_validate(services.registry.datanet(DatanetId(datanet)))


@router.get("/datanets/{datanet}/contributions", dependencies=PUBLIC)
def list_recorded_contributions(
    datanet: Number, services: ServicesDep, paging: PagingDep
) -> Page[RecordedContribution]:
    """List the contributions that the registry has recorded, in order of recording."""
    found = services.registry.contributions(DatanetId(datanet), paging.after, paging.limit + 1)
    return paging.page(found, lambda recorded: recorded.content_hash, RecordedContribution.model_validate)


@router.post("/datanets/{datanet}/contributions/{content_hash}/review/prepare")
def prepare_review(
    datanet: Number, content_hash: HashField, body: ReviewRequest, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    """Prepare a curator's decision. It replaces an earlier one."""
    prepared = services.registry.prepare_review(
        wallet.account, DatanetId(datanet), Hash32(content_hash), body.reason
    )
    return PreparedTransactionView.model_validate(prepared)


@router.post("/datanets/{datanet}/snapshots", status_code=status.HTTP_202_ACCEPTED)
def create_snapshot(
    datanet: Number, body: FreezeRequest, services: ServicesDep, wallet: WalletDep
) -> PendingSnapshotView:
    """Freeze a snapshot. Only the datanet's creator may; the operator sends the transaction."""
    known = services.registry.own_datanet(wallet.account, DatanetId(datanet))
    count = body.count or known.num_contributions
    return PendingSnapshotView.model_validate(services.snapshots.freeze(wallet.account, known.id, count))


@router.get("/snapshots/{snapshot}", dependencies=PUBLIC)
def get_snapshot(snapshot: HashField, services: ServicesDep) -> SnapshotView:
    """Retrieve a snapshot."""
    return SnapshotView.model_validate(services.snapshots.get(SnapshotId(Hash32(snapshot))))


@router.get("/snapshots/{snapshot}/manifest", dependencies=PUBLIC)
def get_manifest(snapshot: HashField, services: ServicesDep) -> dict[str, Any]:
    """Retrieve everything needed to fetch and verify the snapshot's rows."""
    return services.snapshots.manifest(SnapshotId(Hash32(snapshot)))


@router.get("/versions/{version}", dependencies=PUBLIC)
def get_version(version: HashField, services: ServicesDep) -> VersionView:
    """Retrieve the record of a registered version by its id."""
    version_id = VersionId(Hash32(version))
    return VersionView.of(version_id, services.registry.version(version_id))


@router.post("/versions/prepare")
def prepare_version(
    body: VersionRecordBody, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    """Prepare the registration of a version."""
    return PreparedTransactionView.model_validate(
        services.registry.prepare_version(body.record(wallet.account))
    )


@router.post("/versions/deprecate/prepare")
def prepare_deprecation(
    body: VersionRecordBody, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    """Prepare the deprecation of a version."""
    return PreparedTransactionView.model_validate(
        services.registry.prepare_deprecation(body.record(wallet.account))
    )


@router.get("/operators", dependencies=PUBLIC)
async def list_operators(services: ServicesDep, paging: PagingDep) -> Page[OperatorView]:
    """List all registered operators, oldest first, with the most recent response of each."""
    engines = await services.generate.engine_states()
    found = await run_in_threadpool(services.operators.registered, engines, paging.after, paging.limit + 1)
    return paging.page(found, lambda one: one[0].account, lambda one: OperatorView.of(*one))


@router.get("/operator", dependencies=PUBLIC)
async def get_operator(services: ServicesDep) -> OperatorCardView:
    """Retrieve this operator's description: base models, prices and active adapters."""
    engines = await services.generate.engine_states()
    return OperatorCardView.model_validate(await run_in_threadpool(services.operators.card, engines))


@router.get("/operators/{operator}/batches", dependencies=PUBLIC)
def list_batches(operator: AccountField, services: ServicesDep, paging: PagingDep) -> Page[BatchView]:
    """List an operator's batches, newest first; void ones with the reason."""
    found = services.registry.batches(Account(operator), paging.after, paging.limit + 1)
    return paging.page(found, lambda listed: listed.batch.hash, BatchView.of)


@router.get("/transactions")
def list_transactions(services: ServicesDep, caller: CallerDep, paging: PagingDep) -> Page[TransactionView]:
    """List transactions that the operator sent for the caller, newest first."""
    found = services.registry.transactions(caller.account, paging.after_number, paging.limit + 1)
    return paging.page(found, lambda transaction: transaction.id, TransactionView.model_validate)


@router.get("/transactions/{transaction_id}")
def get_transaction(transaction_id: Number, services: ServicesDep, caller: CallerDep) -> TransactionView:
    """Retrieve a transaction that the operator sent for the caller."""
    return TransactionView.model_validate(services.registry.transaction(transaction_id, caller.account))


def require_transaction(transaction_id: Number, services: ServicesDep, caller: CallerDep) -> None:
    """Dependency that returns a 404 for an unknown transaction before a stream starts."""
    services.registry.transaction(transaction_id, caller.account)


@router.get(
    "/transactions/{transaction_id}/events/stream",
    response_class=EventSourceResponse,
    dependencies=[Depends(get_admitted), Depends(hold_stream), Depends(require_transaction)],
)
async def stream_transaction(
    transaction_id: Number, services: ServicesDep, caller: CallerDep
) -> AsyncIterator[ServerSentEvent]:
    """Stream the transaction's current state and each change until it is confirmed or failed.

    The event type is the state. A chain reorganisation can revert the state.
    """
    previous: TransactionView | None = None
    while True:
        asked = transaction_id, caller.account
        found = TransactionView.model_validate(await asyncio.to_thread(services.registry.transaction, *asked))
        if found != previous:
            yield ServerSentEvent(data=found, event=found.state)
            previous = found
        if found.state in LAST_STATES:
            return
        await asyncio.sleep(POLL_SECONDS)
