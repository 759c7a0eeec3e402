"""Webhook endpoints and deliveries; paths and objects are those of OpenAI's API where it has them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, status

from backend.api.deps import PUBLIC, CallerDep, ServicesDep, WalletDep
from backend.api.idempotency import IdempotentRoute, not_idempotent
from backend.api.paging import PagingDep
from backend.api.schemas.common import CursorPage, Page
from backend.api.schemas.webhooks import (
    CreateEndpointRequest,
    EventTypesView,
    RotateSecretRequest,
    TestEndpointRequest,
    UpdateEndpointRequest,
    WebhookDeliveryView,
    WebhookEndpointDeletedView,
    WebhookEndpointSecretView,
    WebhookEndpointView,
    WebhookTestView,
)
from backend.domain.webhooks import EventType
from backend.services.webhooks.endpoints import EndpointWithSecret

router = APIRouter(prefix="/v1", tags=["webhooks"], route_class=IdempotentRoute)


@router.get("/webhook_event_types", dependencies=PUBLIC)
def list_webhook_event_types() -> EventTypesView:
    """List the event types that an endpoint can ask for."""
    return EventTypesView(data=list(EventType))


@router.post("/webhook_endpoints", status_code=status.HTTP_201_CREATED)
@not_idempotent
def create_webhook_endpoint(
    body: CreateEndpointRequest, services: ServicesDep, wallet: WalletDep
) -> WebhookEndpointSecretView:
    """Register a URL to call for events of the caller's account. Its signing secret is returned once."""
    return _with_secret(services.webhooks.create(wallet.account, body.options()))


@router.get("/webhook_endpoints")
def list_webhook_endpoints(
    services: ServicesDep,
    caller: CallerDep,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> CursorPage[WebhookEndpointView]:
    """List the caller's webhook endpoints, newest first."""
    found = services.webhooks.list(caller.account, limit + 1, after)
    views = [WebhookEndpointView.model_validate(endpoint) for endpoint in found]
    return CursorPage[WebhookEndpointView].of(views, limit)


@router.get("/webhook_endpoints/{webhook_endpoint_id}")
def get_webhook_endpoint(
    webhook_endpoint_id: str, services: ServicesDep, caller: CallerDep
) -> WebhookEndpointView:
    """Retrieve a webhook endpoint."""
    return WebhookEndpointView.model_validate(services.webhooks.get(caller.account, webhook_endpoint_id))


@router.post("/webhook_endpoints/{webhook_endpoint_id}")
def update_webhook_endpoint(
    webhook_endpoint_id: str, body: UpdateEndpointRequest, services: ServicesDep, wallet: WalletDep
) -> WebhookEndpointView:
    """Change a webhook endpoint, or enable it again."""
    changed = services.webhooks.change(wallet.account, webhook_endpoint_id, body.options())
    return WebhookEndpointView.model_validate(changed)


@router.delete("/webhook_endpoints/{webhook_endpoint_id}")
def delete_webhook_endpoint(
    webhook_endpoint_id: str, services: ServicesDep, wallet: WalletDep
) -> WebhookEndpointDeletedView:
    """Delete a webhook endpoint. What is pending is not delivered."""
    services.webhooks.delete(wallet.account, webhook_endpoint_id)
    return WebhookEndpointDeletedView(id=webhook_endpoint_id)


@router.post("/webhook_endpoints/{webhook_endpoint_id}/rotate_secret")
@not_idempotent
def rotate_webhook_secret(
    webhook_endpoint_id: str, body: RotateSecretRequest, services: ServicesDep, wallet: WalletDep
) -> WebhookEndpointSecretView:
    """Replace the signing secret. The old one can sign too for another day."""
    keeps = body.keep_old_secret_active_for_24_hours
    return _with_secret(services.webhooks.rotate_secret(wallet.account, webhook_endpoint_id, keeps_old=keeps))


@router.post("/webhook_endpoints/{webhook_endpoint_id}/test")
def test_webhook_endpoint(
    webhook_endpoint_id: str, body: TestEndpointRequest, services: ServicesDep, wallet: WalletDep
) -> WebhookTestView:
    """Send a signed sample event now, once, and return the status of the answer."""
    answer = services.webhooks.test(wallet.account, webhook_endpoint_id, body.event_type)
    return WebhookTestView(
        webhook_endpoint_id=webhook_endpoint_id,
        event_type=body.event_type,
        status_code=answer.status,
        error=answer.error,
    )


@router.get("/webhook_endpoints/{webhook_endpoint_id}/deliveries")
def list_webhook_deliveries(
    webhook_endpoint_id: str, services: ServicesDep, caller: CallerDep, paging: PagingDep
) -> Page[WebhookDeliveryView]:
    """List an endpoint's deliveries of the last 30 days, newest first, each with its last attempt."""
    account, before = caller.account, paging.after_number
    found = services.webhooks.deliveries(account, webhook_endpoint_id, before, paging.limit + 1)
    return paging.page(found, lambda delivery: delivery.sequence, WebhookDeliveryView.model_validate)


def _with_secret(made: EndpointWithSecret) -> WebhookEndpointSecretView:
    view = WebhookEndpointView.model_validate(made.endpoint)
    return WebhookEndpointSecretView(**dict(view), signing_secret=made.secret)
