from __future__ import annotations

from datetime import datetime

from backend.api.schemas.common import AccountField, Micro, Schema, View


class ChallengeRequest(Schema):
    account: AccountField


class ChallengeView(View):
    """Sign `message` as it is (`personal_sign`) and send both to `/v1/auth/sessions`."""

    message: str
    nonce: str
    expires_at: datetime


class SignInRequest(Schema):
    message: str
    signature: str


class SignInView(View):
    """`token` goes into `Authorization: Bearer`; it is not shown again."""

    token: str
    account: str
    expires_at: datetime


class CreateKeyRequest(Schema):
    """`spend_cap` in micro-units over the key's life."""

    name: str
    spend_cap: Micro | None = None


class KeyView(View):
    id: str
    name: str
    hint: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None
    spend_cap: Micro | None
    spent: Micro


class NewKeyView(View):
    """`secret` is shown once."""

    secret: str
    key: KeyView
