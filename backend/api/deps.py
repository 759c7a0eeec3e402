"""Dependencies of the routers: the services, and who is calling."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from backend.api.rate_limits import RateLimits
from backend.api.schemas.common import chain_id
from backend.api.services import Services
from backend.domain.auth import EVERY_SCOPE, Scope
from backend.domain.errors import Forbidden, InvalidInput, Unauthenticated
from backend.domain.ids import Account
from backend.services.accounts.api_keys import KEY_PREFIX

bearer = HTTPBearer(auto_error=False, description="An API key (llk_...) or a session token (lls_...).")


@dataclass(frozen=True, slots=True)
class Caller:
    """A wallet, by its session (`key_id` None) or by one of its API keys, which may do less."""

    account: Account
    key_id: str | None
    token: str
    may: frozenset[Scope] = EVERY_SCOPE
    models: tuple[str, ...] | None = None
    """Names of those that it may ask; None: all."""

    @property
    def scopes(self) -> dict[str, str]:
        """By which its requests are counted."""
        key = {"key": self.key_id} if self.key_id else {}
        return {"wallet": str(self.account), **key}


def get_rate_limits(request: Request) -> RateLimits:
    return cast("RateLimits", request.app.state.rate_limits)


def get_services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


ServicesDep = Annotated[Services, Depends(get_services)]


async def refuse_nul(request: Request) -> None:
    """No name of anything here has a NUL, and PostgreSQL cannot even look for one."""
    if "\0" in request.scope["path"] or "%00" in request.url.query:
        raise InvalidInput("A path and a query have no NUL characters.")


async def note_chain(services: ServicesDep) -> None:
    """Before the request's own fields are read."""
    chain_id.set(services.sign_in.chain_id)


def get_caller(
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Caller:
    if credentials is None:
        raise Unauthenticated("Send 'Authorization: Bearer' with an API key or a session token.")
    token = credentials.credentials
    if token.startswith(KEY_PREFIX):
        key = services.keys.authenticate(token)
        return Caller(key.account, key.id, token, key.scopes, key.models)
    return Caller(services.sessions.of(token).account, None, token)


async def get_admitted(request: Request, caller: Annotated[Caller, Depends(get_caller)]) -> Caller:
    await get_rate_limits(request).admit(request, caller.scopes)
    return caller


AdmittedDep = Annotated[Caller, Depends(get_admitted)]


def _within(caller: Caller, scope: Scope) -> Caller:
    if scope not in caller.may:
        raise Forbidden(f"This API key does not have the scope {scope.value!r}.")
    return caller


def get_answerable(caller: AdmittedDep) -> Caller:
    """Whoever may ask for answers."""
    return _within(caller, Scope.ANSWERS)


def get_reader(caller: AdmittedDep) -> Caller:
    """Whoever may see what the account has and did."""
    return _within(caller, Scope.ACCOUNT)


AnswerableDep = Annotated[Caller, Depends(get_answerable)]
CallerDep = Annotated[Caller, Depends(get_reader)]


async def admit_stranger(request: Request) -> None:
    """For endpoints that work before anybody has signed in."""
    address = request.client.host if request.client else ""
    await get_rate_limits(request).admit(request, {"address": address})


def get_wallet(caller: AdmittedDep) -> Caller:
    """A signed-in wallet: what spends or signs is not for API keys, which live in many places."""
    if caller.key_id is not None:
        raise Forbidden("This needs a signed-in wallet, not an API key.")
    return caller


WalletDep = Annotated[Caller, Depends(get_wallet)]


def asks_for(dependant: Dependant, dependency: Any) -> bool:
    """Whether an endpoint stands on this dependency, directly or through others."""
    return dependant.call is dependency or any(asks_for(each, dependency) for each in dependant.dependencies)


def admit_operator(
    services: ServicesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """Revenue and exposure are nobody's business but the operator's, who holds the token."""
    shown = credentials.credentials.encode() if credentials else b""
    if not hmac.compare_digest(shown, services.metrics_token().encode()):
        raise Unauthenticated("Send 'Authorization: Bearer' with the operator's metrics token.")
