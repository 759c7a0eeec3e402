from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import AliasPath, Field

from backend.api.schemas.common import AccountField, Amount, AmountInput, Items, Schema, View
from backend.domain.auth import Scope
from backend.services.accounts.api_keys import MAX_MODELS

ModelName = Annotated[str, Field(min_length=1, max_length=200)]


class ChallengeRequest(Schema):
    account: AccountField


class ChallengeView(View):
    """Sign `message` unchanged (`personal_sign`) and send message and signature to `/v1/auth/sessions`."""

    message: str
    nonce: str
    expires_at: datetime


class CallerView(View):
    """The account that a token authenticates."""

    account: str
    account_id: str = Field(description="The account in CAIP-10 form: `eip155:<chain id>:<account>`.")
    key_id: str | None = Field(description="Id of the API key; null for a session.")


class SignInRequest(Schema):
    message: str
    signature: str


class RefreshRequest(Schema):
    refresh_token: str = Field(max_length=200)


class SignInView(View):
    """Send `token` as `Authorization: Bearer` until `expires_at`. `refresh_token` can be exchanged once for
    the next pair of tokens, until `ends_at`. The tokens are not returned again.
    """

    token: str = Field(validation_alias="access")
    expires_at: datetime = Field(validation_alias=AliasPath("session", "expires_at"))
    refresh_token: str = Field(validation_alias="refresh")
    ends_at: datetime = Field(validation_alias=AliasPath("session", "ends_at"))
    account: str = Field(validation_alias=AliasPath("session", "account"))


class CreateKeyRequest(Schema):
    """`spend_cap`: the key's total budget. `scopes`: `answers` allows generation, `account`
    allows reading the account's data. `models`: names, as in `/v1/models`, that the key may use; default:
    all.
    """

    name: str
    spend_cap: AmountInput | None = None
    scopes: Annotated[Items[Scope], Field(min_length=1)] = sorted(Scope)
    models: Annotated[Items[ModelName], Field(min_length=1, max_length=MAX_MODELS)] | None = None


class KeyView(View):
    id: str
    name: str
    hint: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    spend_cap: Amount | None
    spent: Amount
    scopes: list[Scope]
    models: list[str] | None = Field(description="Models that the key may use; null: all.")


class NewKeyView(View):
    """`secret` is returned once."""

    secret: str
    key: KeyView
