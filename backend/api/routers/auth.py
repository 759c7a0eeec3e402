"""Sign-in and API keys."""

from __future__ import annotations

from fastapi import APIRouter, status

from backend.api.deps import PUBLIC, AdmittedDep, ServicesDep, WalletDep
from backend.api.idempotency import IdempotentRoute, not_idempotent
from backend.api.paging import PagingDep
from backend.api.schemas.auth import (
    CallerView,
    ChallengeRequest,
    ChallengeView,
    CreateKeyRequest,
    KeyView,
    NewKeyView,
    RefreshRequest,
    SignInRequest,
    SignInView,
)
from backend.api.schemas.common import Page
from backend.domain.caip import account_name
from backend.domain.ids import Account

router = APIRouter(prefix="/v1", tags=["auth"], route_class=IdempotentRoute)


@router.post("/auth/challenges", status_code=status.HTTP_201_CREATED, dependencies=PUBLIC)
@not_idempotent
def create_challenge(body: ChallengeRequest, services: ServicesDep) -> ChallengeView:
    """Create the message that the wallet signs to sign in."""
    return ChallengeView.model_validate(services.sign_in.challenge(Account(body.account)))


@router.post("/auth/sessions", status_code=status.HTTP_201_CREATED, dependencies=PUBLIC)
@not_idempotent
def create_session(body: SignInRequest, services: ServicesDep) -> SignInView:
    """Sign in with a signed challenge."""
    return SignInView.model_validate(services.sign_in.sign_in(body.message, body.signature))


@router.post("/auth/refresh", dependencies=PUBLIC)
@not_idempotent
def refresh_session(body: RefreshRequest, services: ServicesDep) -> SignInView:
    """Exchange a refresh token for the next pair of tokens. The same token returns the same pair within a
    minute, in case a response is lost; reuse after that ends the session.
    """
    return SignInView.model_validate(services.sessions.refresh(body.refresh_token))


@router.delete("/auth/session", status_code=status.HTTP_204_NO_CONTENT)
def delete_session(services: ServicesDep, wallet: WalletDep) -> None:
    """Sign out."""
    services.sessions.end(wallet.token)


@router.get("/auth/me")
def get_current_caller(services: ServicesDep, caller: AdmittedDep) -> CallerView:
    """Retrieve the account that the token authenticates."""
    name = account_name(services.sign_in.chain_id, caller.account)
    return CallerView(account=caller.account, account_id=name, key_id=caller.key_id)


@router.post("/keys", status_code=status.HTTP_201_CREATED)
@not_idempotent
def create_key(body: CreateKeyRequest, services: ServicesDep, wallet: WalletDep) -> NewKeyView:
    """Create an API key. Its secret is returned once."""
    for name in body.models or ():
        services.catalogue.record(name)  # reject unknown names now, not when the key is used
    limits = (body.spend_cap, body.scopes, body.models)
    return NewKeyView.model_validate(services.keys.create(wallet.account, body.name, *limits))


@router.get("/keys")
def list_keys(services: ServicesDep, wallet: WalletDep, paging: PagingDep) -> Page[KeyView]:
    """List API keys, newest first."""
    keys = services.keys.list(wallet.account)
    return paging.page_of_all(keys, lambda key: key.id, KeyView.model_validate)


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, services: ServicesDep, wallet: WalletDep) -> KeyView:
    """Revoke an API key."""
    return KeyView.model_validate(services.keys.revoke(wallet.account, key_id))
