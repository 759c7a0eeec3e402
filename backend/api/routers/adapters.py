"""Imported adapters: inspection, publication, registration."""

from __future__ import annotations

from fastapi import APIRouter, status

from backend.api.deps import CallerDep, ServicesDep, WalletDep
from backend.api.idempotency import IdempotentRoute
from backend.api.paging import PagingDep
from backend.api.schemas.adapters import AdapterView, ImportAdapterRequest
from backend.api.schemas.common import Page
from backend.api.schemas.fine_tuning import JobEventView, RegistrationRequest, RegistrationView

router = APIRouter(prefix="/v1/adapters", tags=["adapters"], route_class=IdempotentRoute)


@router.post("", status_code=status.HTTP_201_CREATED)
def import_adapter(body: ImportAdapterRequest, services: ServicesDep, wallet: WalletDep) -> AdapterView:
    """Import an adapter that was trained elsewhere from completed transfers. It is inspected as the engine
    reads it, compared with the registered versions of its base, and published with a model card. The
    transfers are deleted once the adapter is accepted.
    """
    base = services.catalogue.require_base(body.model).digest
    return AdapterView.of(
        services.imported_adapters.create(wallet.account, body.licence, body.files, body.about(), base)
    )


@router.get("")
def list_adapters(services: ServicesDep, caller: CallerDep, paging: PagingDep) -> Page[AdapterView]:
    """List the caller's imported adapters, newest first."""
    found = services.imported_adapters.list(caller.account, paging.limit + 1, paging.after)
    return paging.page(found, lambda job: job.id, AdapterView.of)


@router.get("/{adapter_id}")
def get_adapter(adapter_id: str, services: ServicesDep, caller: CallerDep) -> AdapterView:
    """Retrieve an imported adapter."""
    return AdapterView.of(services.imported_adapters.get(adapter_id, caller.account))


@router.post("/{adapter_id}/cancel")
def cancel_adapter(adapter_id: str, services: ServicesDep, wallet: WalletDep) -> AdapterView:
    """Cancel an import. Its worker stops within seconds."""
    return AdapterView.of(services.imported_adapters.cancel(adapter_id, wallet.account))


@router.get("/{adapter_id}/events")
def list_adapter_events(
    adapter_id: str, services: ServicesDep, caller: CallerDep, paging: PagingDep
) -> Page[JobEventView]:
    """List events, oldest first. `screening` has the screening result, `failed` the reason of a rejection."""
    asked = adapter_id, caller.account, paging.after_number or 0, paging.limit + 1
    return paging.page(services.imported_adapters.events(*asked), lambda event: event.seq, JobEventView.of)


@router.post("/{adapter_id}/registration/prepare")
def prepare_adapter_registration(
    adapter_id: str, body: RegistrationRequest, services: ServicesDep, wallet: WalletDep
) -> RegistrationView:
    """Prepare the transaction with which the creator registers the adapter. `version_id` is set once the
    chain confirms it. The version has no snapshot, so the contributors' share of its revenue goes to the
    treasury.
    """
    services.imported_adapters.get(adapter_id, wallet.account)
    registration = services.publication.prepare(
        adapter_id, wallet.account, body.listing(), accepts_copy=body.accepts_copy
    )
    return RegistrationView.model_validate(registration)
