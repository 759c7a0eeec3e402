from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from backend.api.schemas.common import AccountField, Micro, Schema, View
from backend.domain.auth import Scope
from backend.services.accounts.api_keys import MAX_MODELS
from backend.services.accounts.sessions import Tokens

ModelName = Annotated[str, Field(min_length=1, max_length=200)]


class ChallengeRequest(Schema):
    account: AccountField


class ChallengeView(View):
    """Sign `message` as it is (`personal_sign`) and send both to `/v1/auth/sessions`."""

    message: str
    nonce: str
    expires_at: datetime


class CallerView(View):
    """Whom a token stands for."""

    account: str
    account_id: str = Field(description="The same by CAIP-10: `eip155:<chain id>:<account>`.")
    key_id: str | None = Field(description="Of the API key; null for a session.")


class SignInRequest(Schema):
    message: str
    signature: str


class RefreshRequest(Schema):
    refresh_token: str = Field(max_length=200)


class SignInView(View):
    """`token` goes into `Authorization: Bearer` until `expires_at`; `refresh_token`, used once, gets the next
    pair until `ends_at`. Neither is shown again.
    """

    token: str
    expires_at: datetime
    refresh_token: str
    ends_at: datetime
    account: str

    @classmethod
    def of(cls, tokens: Tokens) -> SignInView:
        session = tokens.session
        return cls(
            token=tokens.access,
            expires_at=session.expires_at,
            refresh_token=tokens.refresh,
            ends_at=session.ends_at,
            account=session.account,
        )


class CreateKeyRequest(Schema):
    """`spend_cap` in micro-units over the key's life. `scopes`: `answers` to ask for them, `account` to see
    what the account has and did. `models`: names of what it may ask, as in `/v1/models`; left out: all.
    """

    name: str
    spend_cap: Micro | None = None
    scopes: Annotated[list[Scope], Field(min_length=1)] = sorted(Scope)
    models: Annotated[list[ModelName], Field(min_length=1, max_length=MAX_MODELS)] | None = None


class KeyView(View):
    id: str
    name: str
    hint: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    spend_cap: Micro | None
    spent: Micro
    scopes: list[Scope]
    models: list[str] | None = Field(description="That it may ask; null: all.")


class NewKeyView(View):
    """`secret` is shown once."""

    secret: str
    key: KeyView
