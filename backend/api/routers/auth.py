"""Sign-in and API keys."""

from __future__ import annotations

from fastapi import APIRouter, Depends, status

from backend.api.deps import AdmittedDep, ServicesDep, WalletDep, admit_stranger
from backend.api.idempotency import IdempotentRoute, keeps_no_answer
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


@router.post("/auth/challenges", status_code=status.HTTP_201_CREATED, dependencies=[Depends(admit_stranger)])
@keeps_no_answer
def create_challenge(body: ChallengeRequest, services: ServicesDep) -> ChallengeView:
    return ChallengeView.model_validate(services.sign_in.challenge(Account(body.account)))


@router.post("/auth/sessions", status_code=status.HTTP_201_CREATED, dependencies=[Depends(admit_stranger)])
@keeps_no_answer
def sign_in(body: SignInRequest, services: ServicesDep) -> SignInView:
    return SignInView.model_validate(services.sign_in.sign_in(body.message, body.signature))


@router.post("/auth/refresh", dependencies=[Depends(admit_stranger)])
@keeps_no_answer
def refresh_session(body: RefreshRequest, services: ServicesDep) -> SignInView:
    """The next pair of tokens; those before it end. The same answer again within a minute, so that none is
    lost; a token that is used later than that ends the session.
    """
    return SignInView.model_validate(services.sessions.refresh(body.refresh_token))


@router.delete("/auth/session", status_code=status.HTTP_204_NO_CONTENT)
def sign_out(services: ServicesDep, wallet: WalletDep) -> None:
    services.sessions.end(wallet.token)


@router.get("/auth/me")
def who_am_i(services: ServicesDep, caller: AdmittedDep) -> CallerView:
    name = account_name(services.sign_in.chain_id, caller.account)
    return CallerView(account=caller.account, account_id=name, key_id=caller.key_id)


@router.post("/keys", status_code=status.HTTP_201_CREATED)
@keeps_no_answer
def create_key(body: CreateKeyRequest, services: ServicesDep, wallet: WalletDep) -> NewKeyView:
    for name in body.models or ():
        services.catalogue.record(name)  # a name that nothing has would be found out when it is too late
    limits = (body.spend_cap, body.scopes, body.models)
    return NewKeyView.model_validate(services.keys.create(wallet.account, body.name, *limits))


@router.get("/keys")
def list_keys(services: ServicesDep, wallet: WalletDep, paging: PagingDep) -> Page[KeyView]:
    """Newest first."""
    keys = services.keys.list(wallet.account)
    return paging.page_of_all(keys, lambda key: key.id, KeyView.model_validate)


@router.delete("/keys/{key_id}")
def revoke_key(key_id: str, services: ServicesDep, wallet: WalletDep) -> KeyView:
    return KeyView.model_validate(services.keys.revoke(wallet.account, key_id))
