from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from backend.api.schemas.common import Amount, AmountInput, Items, Schema, UnixTime, View
from backend.domain.webhooks import DeliveryState, EventType
from backend.services.webhooks.endpoints import EndpointOptions

EventTypes = Annotated[Items[EventType], Field(min_length=1, max_length=len(EventType))]
LOW_BALANCE = "`channel.balance_low` is sent when less than this is available. Default: 1 dollar."
MIN_EARNINGS = (
    "`earnings.claimable` is sent each time that at least this became claimable. Default: 0.01 dollars."
)


class CreateEndpointRequest(Schema):
    """`url`: `https`, on the public Internet; redirects are not followed."""

    url: str
    name: str
    event_types: EventTypes
    low_balance: AmountInput | None = Field(default=None, description=LOW_BALANCE)
    min_earnings: AmountInput | None = Field(default=None, description=MIN_EARNINGS)

    def options(self) -> EndpointOptions:
        return EndpointOptions(**dict(self))


class UpdateEndpointRequest(Schema):
    """Fields that are left out stay as they are. `is_enabled` enables an endpoint again, or disables it."""

    url: str | None = None
    name: str | None = None
    event_types: EventTypes | None = None
    low_balance: AmountInput | None = Field(default=None, description=LOW_BALANCE)
    min_earnings: AmountInput | None = Field(default=None, description=MIN_EARNINGS)
    is_enabled: bool | None = None

    def options(self) -> EndpointOptions:
        return EndpointOptions(**dict(self))


class RotateSecretRequest(Schema):
    keep_old_secret_active_for_24_hours: bool = False


class TestEndpointRequest(Schema):
    __test__ = False  # not a test class of pytest

    event_type: EventType


class WebhookEndpointView(View):
    """A webhook endpoint, in the form of OpenAI's, with its state."""

    id: str
    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: UnixTime
    updated_at: UnixTime = Field(description="Last change of the configuration or the secret.")
    name: str
    url: str
    event_types: list[EventType]
    signing_secret_hint: str = Field(validation_alias="secret_hint")
    old_secret_until: UnixTime | None = Field(description="Until when the previous secret signs too.")
    is_enabled: bool
    disabled_reason: str | None
    low_balance: Amount | None = Field(description="Null without the event `channel.balance_low`.")
    min_earnings: Amount | None = Field(description="Null without the event `earnings.claimable`.")


class WebhookEndpointSecretView(WebhookEndpointView):
    """A webhook endpoint with its signing secret, which is returned once."""

    signing_secret: str


class WebhookEndpointDeletedView(View):
    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: bool = True


class WebhookTestView(View):
    """What the endpoint answered to a sample event. `success`: an answer came. `error`: null for a 2xx
    status.
    """

    webhook_endpoint_id: str
    object: Literal["webhook_endpoint.test"] = "webhook_endpoint.test"
    event_type: EventType
    success: bool = True
    status_code: int
    error: str | None


class EventTypesView(View):
    object: Literal["list"] = "list"
    data: list[EventType]


class WebhookDeliveryView(View):
    """An event for an endpoint. `id` is the header `webhook-id` of every attempt."""

    id: str
    event_type: EventType
    created_at: UnixTime
    state: DeliveryState
    num_attempts: int
    attempted_at: UnixTime | None = Field(description="Time of the last attempt.")
    status_code: int | None = Field(
        validation_alias="status", description="HTTP status of the last attempt's answer; null without one."
    )
    error: str | None = Field(description="Why the last attempt failed.")
    next_attempt_at: UnixTime | None = Field(
        validation_alias="due_at", description="Null once the delivery has ended."
    )
