"""Sign-in and sign-out of the wallet that a page has connected."""

from __future__ import annotations

from fastapi import APIRouter, Request, status
from starlette.responses import RedirectResponse, Response

from backend.api.deps import ServicesDep
from backend.api.schemas.auth import ChallengeRequest, ChallengeView, SignInRequest
from backend.domain.ids import Account
from backend.web.route import PageRoute
from backend.web.visitor import VisitorDep, keep_session

router = APIRouter(route_class=PageRoute)


@router.post("/sign-in/challenge")
def create_challenge(body: ChallengeRequest, services: ServicesDep) -> ChallengeView:
    """The message that the wallet signs."""
    return ChallengeView.model_validate(services.sign_in.challenge(Account(body.account)))


@router.post("/sign-in", status_code=status.HTTP_204_NO_CONTENT)
def sign_in(body: SignInRequest, request: Request, services: ServicesDep) -> None:
    """Open a session, which the browser keeps in a cookie that scripts cannot read."""
    keep_session(request, services.sign_in.sign_in(body.message, body.signature))


@router.post("/sign-out")
def sign_out(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    if visitor is not None:
        services.sessions.end(visitor.token)
    keep_session(request, None)
    return RedirectResponse("/", status.HTTP_303_SEE_OTHER)
