"""FastAPI dependencies: services, authentication and rate limits."""

from __future__ import annotations

import hmac
from collections.abc import AsyncIterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Annotated, Any, cast

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

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
    """An authenticated wallet: by its session (`key_id` is None) or by one of its API keys, which may be
    scoped.
    """

    account: Account
    key_id: str | None
    token: str
    scopes: frozenset[Scope] = EVERY_SCOPE
    models: tuple[str, ...] | None = None
    """Models that the caller may use; None: all."""

    @property
    def rate_limit_scopes(self) -> dict[str, str]:
        key = {"key": self.key_id} if self.key_id else {}
        return {"wallet": str(self.account), **key}


def get_services(request: Request) -> Services:
    return cast("Services", request.app.state.services)


def get_rate_limits(request: Request) -> RateLimits:
    return get_services(request).rate_limits


ServicesDep = Annotated[Services, Depends(get_services)]


async def reject_nul(request: Request) -> None:
    """PostgreSQL rejects text with NUL characters, and no identifier has one."""
    if "\0" in request.scope["path"] or "%00" in request.url.query:
        raise InvalidInput("NUL characters are not allowed in the path and query.")


async def set_chain_id(services: ServicesDep) -> None:
    """Set the chain id that account fields are validated against."""
    chain_id.set(services.sign_in.chain_id)


def _caller(services: Services, credentials: HTTPAuthorizationCredentials | None) -> Caller:
    if credentials is None:
        raise Unauthenticated("Send 'Authorization: Bearer' with an API key or a session token.")
    token = credentials.credentials
    if token.startswith(KEY_PREFIX):
        key = services.keys.authenticate(token)
        return Caller(key.account, key.id, token, key.scopes, key.models)
    return Caller(services.sessions.of(token).account, None, token)


def address_of(request: Request) -> str:
    """The network address that a request is counted by; of IPv6 the /64, all of which one host may use."""
    host = request.client.host if request.client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host  # a proxy may pass on anything
    if not isinstance(address, IPv6Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), 64), strict=False))


async def limit_by_address(request: Request) -> None:
    """Rate limit of endpoints that need no authentication."""
    await get_rate_limits(request).admit(request, {"address": address_of(request)})


async def read_body(request: Request) -> bytes:
    """The whole body. Errors: those of `BodyLimit`, which count by address: their caller is not known yet."""
    try:
        return await request.body()
    except HTTPException:
        await limit_by_address(request)
        raise


PUBLIC = (Depends(limit_by_address),)
"""Dependencies of endpoints that need no authentication."""


async def limit_peer(request: Request) -> None:
    """Rate limit of published content, which other operators and watchers fetch."""
    await get_rate_limits(request).admit(request, {"peer": address_of(request)})


async def hold_stream(request: Request) -> AsyncIterator[None]:
    """Dependency of event streams: holds one of the caller's few until the response ends."""
    with request.app.state.event_streams.hold(address_of(request)):
        yield


async def get_admitted(
    request: Request,
    services: ServicesDep,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> Caller:
    if isinstance(admitted := getattr(request.state, "admitted", None), Caller):
        return admitted
    try:
        caller = await run_in_threadpool(_caller, services, credentials)
    except Unauthenticated:
        await limit_by_address(request)
        raise
    await get_rate_limits(request).admit(request, caller.rate_limit_scopes)
    request.state.admitted = caller
    return caller


AdmittedDep = Annotated[Caller, Depends(get_admitted)]


def _check_scope(caller: Caller, scope: Scope) -> Caller:
    if scope not in caller.scopes:
        raise Forbidden(f"This API key does not have the scope {scope.value!r}.")
    return caller


def get_answers_caller(caller: AdmittedDep) -> Caller:
    """A caller with the scope `answers`."""
    return _check_scope(caller, Scope.ANSWERS)


def get_account_caller(caller: AdmittedDep) -> Caller:
    """A caller with the scope `account`."""
    return _check_scope(caller, Scope.ACCOUNT)


AnswersCallerDep = Annotated[Caller, Depends(get_answers_caller)]
CallerDep = Annotated[Caller, Depends(get_account_caller)]


def get_wallet(caller: AdmittedDep) -> Caller:
    """A signed-in wallet. API keys are stored in many places, so they may neither spend deposits nor sign."""
    if caller.key_id is not None:
        raise Forbidden("This needs the session of a signed-in wallet, not an API key.")
    return caller


WalletDep = Annotated[Caller, Depends(get_wallet)]


def depends_on(dependant: Dependant, dependency: Any) -> bool:
    """Whether an endpoint has this dependency, directly or indirectly."""
    return dependant.call is dependency or any(
        depends_on(each, dependency) for each in dependant.dependencies
    )


def require_metrics_token(
    services: ServicesDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> None:
    """Metrics include revenue and exposure, so they are for the operator only."""
    token = credentials.credentials.encode() if credentials else b""
    if not hmac.compare_digest(token, services.metrics_token().encode()):
        raise Unauthenticated("Send 'Authorization: Bearer' with the operator's metrics token.")
