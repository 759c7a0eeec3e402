"""API keys: named and revocable, limited by scopes, models and spend. Secrets are stored only as sha-256."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.auth import EVERY_SCOPE, ApiKey
from backend.domain.errors import Forbidden, InvalidInput, NotFound, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from datetime import datetime

    from backend.db.unit_of_work import Database
    from backend.domain.auth import Scope
    from backend.domain.ids import Account
    from backend.services.market.catalogue import Model

KEY_PREFIX = "llk_"
MAX_MODELS = 64
_NAME_LENGTH = 64
_MAX_AMOUNT = (1 << 128) - 1


class ModelNotAllowed(Forbidden):
    """The API key does not allow this model; `details["allowed"]` names the models that it allows."""


def check_model(allowed: tuple[str, ...] | None, model: Model) -> None:
    """Raise `ModelNotAllowed` unless the model is among `allowed`; None allows all."""
    if allowed is not None and not any(map(model.matches, allowed)):
        raise ModelNotAllowed(
            f"This API key does not allow the model {model.name!r}.", "model", {"allowed": list(allowed)}
        )


def secret_hash(secret: str) -> str:
    """sha-256, 0x-hex. Without salt and stretching, since the secrets are 256 random bits."""
    return "0x" + hashlib.sha256(secret.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A new key with its `secret`, which cannot be retrieved later: the database stores its sha-256."""

    secret: str
    key: ApiKey


class ApiKeys:
    def __init__(
        self,
        db: Database,
        clock: Callable[[], datetime],
    ) -> None:
        self._db = db
        self._clock = clock

    def create(
        self,
        account: Account,
        name: str,
        spend_cap: int | None = None,
        scopes: Collection[Scope] = EVERY_SCOPE,
        models: Collection[str] | None = None,
    ) -> NewApiKey:
        """`spend_cap` limits the key's total spending, in micro-units; None: only the channel limits it.

        `models`: names of the allowed models, in any form that `Catalogue.resolve` accepts; None: all.
        """
        if not 0 < len(name) <= _NAME_LENGTH or not name.isprintable():
            raise InvalidInput(f"A key's name has 1 to {_NAME_LENGTH} printable characters.", param="name")
        if spend_cap is not None and not 0 <= spend_cap <= _MAX_AMOUNT:
            raise InvalidInput("The spend cap does not fit uint128.", param="spend_cap")
        if not scopes:
            raise InvalidInput("A key needs at least one scope.", param="scopes")
        if models is not None and not 0 < len(models) <= MAX_MODELS:
            raise InvalidInput(f"A key allows 1 to {MAX_MODELS} models, or all.", param="models")
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        key = ApiKey(
            id=f"key_{secrets.token_hex(12)}",
            account=account,
            name=name,
            hint=secret[:10],
            created_at=self._clock(),
            last_used_at=None,
            revoked_at=None,
            spend_cap=spend_cap,
            spent=0,
            scopes=frozenset(scopes),
            models=None if models is None else tuple(dict.fromkeys(models)),
        )
        with self._db.begin() as tx:
            tx.auth.add_key(key, secret_hash(secret))
        return NewApiKey(secret, key)

    def list(self, account: Account) -> list[ApiKey]:
        with self._db.read() as tx:
            return tx.auth.keys(account)

    def revoke(self, account: Account, key_id: str) -> ApiKey:
        """Idempotent. Raises NotFound also for other accounts' keys, whose existence is not revealed."""
        with self._db.begin() as tx:
            key = tx.auth.key(key_id)
            if key is None or key.account != account:
                raise NotFound(f"No API key {key_id}.", param="id")
            tx.auth.revoke_key(key_id, self._clock())
            revoked = tx.auth.key(key_id)
        if revoked is None:
            raise NotFound(f"No API key {key_id}.", param="id")
        return revoked

    def authenticate(self, secret: str) -> ApiKey:
        with self._db.read() as tx:
            key = tx.auth.key_of_secret(secret_hash(secret))
        if key is None or key.revoked_at is not None:
            raise Unauthenticated("The API key is unknown or was revoked.")
        return key
