"""Datanets, snapshots, versions and operators as the chain has them, and our own transactions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, status
from fastapi.concurrency import run_in_threadpool
from fastapi.sse import EventSourceResponse, ServerSentEvent

from backend.api.deps import CallerDep, ServicesDep, WalletDep, get_admitted
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
    FreezingView,
    OperatorCardView,
    OperatorView,
    RecordedContribution,
    ReviewRequest,
    SnapshotView,
    TransactionView,
    VersionRecordBody,
)
from backend.domain.ids import Account, DatanetId, Hash32, SnapshotId
from backend.domain.transactions import TransactionState

router = APIRouter(prefix="/v1", tags=["registry"], route_class=IdempotentRoute)

Number = Annotated[int, Path(ge=0, lt=INTEGERS_END)]
POLL_SECONDS = 0.5
LAST_STATES = {TransactionState.CONFIRMED, TransactionState.FAILED}


@router.get("/datanets")
def list_datanets(services: ServicesDep, paging: PagingDep) -> Page[DatanetView]:
    """Oldest first."""
    return paging.page_of_all(
        services.registry.datanets(), lambda datanet: datanet.id, DatanetView.model_validate
    )


@router.post("/datanets/prepare")
def prepare_datanet(
    body: CreateDatanetRequest, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    prepared = services.registry.prepare_datanet(wallet.account, body.name, body.description, body.licence)
    return PreparedTransactionView.model_validate(prepared)


@router.get("/datanets/{datanet}")
def get_datanet(datanet: Number, services: ServicesDep) -> DatanetView:
    return DatanetView.model_validate(services.registry.datanet(DatanetId(datanet)))


@router.get("/datanets/{datanet}/contributions")
def list_recorded(datanet: Number, services: ServicesDep, paging: PagingDep) -> Page[RecordedContribution]:
    """In the order of their indices."""
    found = services.registry.contributions(DatanetId(datanet))
    return paging.page_of_all(found, lambda recorded: recorded.index, RecordedContribution.model_validate)


@router.post("/datanets/{datanet}/contributions/{index}/review/prepare")
def prepare_review(
    datanet: Number, index: Number, body: ReviewRequest, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    """A curator's decision; a later one replaces it."""
    prepared = services.registry.prepare_review(wallet.account, DatanetId(datanet), index, body.reason)
    return PreparedTransactionView.model_validate(prepared)


@router.post("/datanets/{datanet}/snapshots", status_code=status.HTTP_202_ACCEPTED)
def freeze(datanet: Number, body: FreezeRequest, services: ServicesDep, wallet: WalletDep) -> FreezingView:
    """Sent and paid for by the operator, for the datanet's creator only."""
    known = services.registry.own_datanet(wallet.account, DatanetId(datanet))
    count = body.count or known.num_contributions
    return FreezingView.model_validate(services.snapshots.freeze(known.id, count))


@router.get("/snapshots/{snapshot}")
def get_snapshot(snapshot: HashField, services: ServicesDep) -> SnapshotView:
    return SnapshotView.model_validate(services.snapshots.get(SnapshotId(Hash32(snapshot))))


@router.get("/snapshots/{snapshot}/manifest")
def get_manifest(snapshot: HashField, services: ServicesDep) -> dict[str, Any]:
    """All that is needed to fetch and check the snapshot's rows."""
    return services.snapshots.manifest(SnapshotId(Hash32(snapshot)))


@router.post("/versions/prepare")
def prepare_version(
    body: VersionRecordBody, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    return PreparedTransactionView.model_validate(
        services.registry.prepare_version(body.record(wallet.account))
    )


@router.post("/versions/deprecate/prepare")
def prepare_deprecation(
    body: VersionRecordBody, services: ServicesDep, wallet: WalletDep
) -> PreparedTransactionView:
    return PreparedTransactionView.model_validate(
        services.registry.prepare_deprecation(body.record(wallet.account))
    )


@router.get("/operators")
async def list_operators(services: ServicesDep, paging: PagingDep) -> Page[OperatorView]:
    """All on the chain, oldest first, with what they said of themselves when they were asked last."""
    active = await services.generate.active_adapters()
    found = await run_in_threadpool(services.operators.all, active)
    return paging.page_of_all(found, lambda one: one[0].account, lambda one: OperatorView.of(*one))


@router.get("/operator")
async def get_operator(services: ServicesDep) -> OperatorCardView:
    """What this operator says of itself to others."""
    active = await services.generate.active_adapters()
    return OperatorCardView.model_validate(await run_in_threadpool(services.operators.card, active))


@router.get("/operators/{operator}/batches")
def list_batches(operator: AccountField, services: ServicesDep, paging: PagingDep) -> Page[BatchView]:
    """Newest first, voided ones with why they fell."""
    found = services.registry.batches(Account(operator))
    return paging.page_of_all(found, lambda listed: listed.batch.hash, BatchView.of)


@router.get("/transactions")
def list_transactions(services: ServicesDep, caller: CallerDep, paging: PagingDep) -> Page[TransactionView]:
    """Those that were sent for the caller, newest first."""
    found = services.registry.transactions(caller.account, paging.after_number, paging.limit + 1)
    return paging.page(found, lambda transaction: transaction.id, TransactionView.model_validate)


@router.get("/transactions/{transaction_id}")
def get_transaction(transaction_id: Number, services: ServicesDep, caller: CallerDep) -> TransactionView:
    """One that was sent for the caller."""
    return TransactionView.model_validate(services.registry.transaction(transaction_id, caller.account))


def require_transaction(transaction_id: Number, services: ServicesDep, caller: CallerDep) -> None:
    """Before a stream begins, so that an unknown transaction is a 404."""
    services.registry.transaction(transaction_id, caller.account)


@router.get(
    "/transactions/{transaction_id}/events/stream",
    response_class=EventSourceResponse,
    dependencies=[Depends(get_admitted), Depends(require_transaction)],
)
async def stream_transaction(
    transaction_id: Number, services: ServicesDep, caller: CallerDep
) -> AsyncIterator[ServerSentEvent]:
    """The transaction as it is now, then each change of it, until it is confirmed or has failed.

    Events are named by its state. A chain that is reorganised may take it a step back.
    """
    shown: TransactionView | None = None
    while True:
        asked = transaction_id, caller.account
        found = TransactionView.model_validate(await asyncio.to_thread(services.registry.transaction, *asked))
        if found != shown:
            yield ServerSentEvent(data=found, event=found.state)
            shown = found
        if found.state in LAST_STATES:
            return
        await asyncio.sleep(POLL_SECONDS)
