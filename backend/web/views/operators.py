"""Operators of the market, their batches and disputes; and what this installation's operator watches."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.concurrency import run_in_threadpool
from starlette.responses import Response

from backend.api.deps import ServicesDep
from backend.api.paging import PagingDep
from backend.api.routers.registry import list_batches, list_operators
from backend.api.schemas.common import AccountField, Page
from backend.api.schemas.registry import BatchView, OperatorView
from backend.api.services import Services
from backend.domain.errors import Forbidden
from backend.domain.ids import Account, Cid, Hash32
from backend.domain.readiness import Fault
from backend.ports.engine import EngineState
from backend.services.operator.overview import Overview
from backend.web.rendering import render, render_signed_out
from backend.web.route import PageRoute
from backend.web.visitor import VisitorDep

router = APIRouter(route_class=PageRoute)
LEAD = "What this installation earns and risks, what it waits for, and what to do where something is wrong."


@router.get("/operators")
async def show_operators(request: Request, services: ServicesDep, paging: PagingDep) -> Response:
    return await run_in_threadpool(_operators_page, request, services, await list_operators(services, paging))


def _operators_page(request: Request, services: Services, page: Page[OperatorView]) -> Response:
    return render(
        request,
        "operators.html",
        operators=page.data,
        open_totals=services.registry.open_totals([Account(one.account) for one in page.data]),
        next_cursor=page.next_cursor,
        own=services.overviews.own,
    )


@router.get("/o/{operator}")
async def show_operator(
    operator: AccountField, request: Request, services: ServicesDep, paging: PagingDep
) -> Response:
    engines = await services.generate.engine_states()
    return await run_in_threadpool(_operator_page, operator, request, services, paging, engines)


@router.get("/operate")
async def show_own(request: Request, services: ServicesDep, visitor: VisitorDep) -> Response:
    if visitor is None:
        return render_signed_out(request, "Operate", LEAD)
    if visitor.account != services.overviews.own:
        raise Forbidden("This page is for the operator of this installation: sign in with its account.")
    overview, faults = await services.overviews.read(), await services.readiness()
    return await run_in_threadpool(_own_page, request, services, overview, faults)


def _own_page(
    request: Request, services: Services, overview: Overview, faults: Mapping[str, Fault]
) -> Response:
    return render(
        request,
        "operate.html",
        "overview",
        lead=LEAD,
        overview=overview,
        batches=_open_batches(services, services.overviews.own),
        denials=services.denials.list(),
        floor=services.catalogue.floor(),
        faults=faults,
    )


def _operator_page(
    operator: str,
    request: Request,
    services: Services,
    paging: PagingDep,
    engines: Mapping[Hash32, EngineState],
) -> Response:
    found = services.operators.get(Account(operator), engines)
    page = list_batches(operator, services, paging)
    return render(
        request,
        "operator.html",
        operator=OperatorView.of(*found),
        batches=page.data,
        stored={one.number for one in page.data if _is_stored(services, Cid(one.data))},
        next_cursor=page.next_cursor,
        owed=sum(one.total for one in _open_batches(services, Account(operator))),
    )


def _open_batches(services: Services, operator: Account) -> list[BatchView]:
    return [BatchView.of(one) for one in services.registry.open_batches(operator)]


def _is_stored(services: Services, cid: Cid) -> bool:
    """Whether the batch's data is here; asks no other node."""
    return services.is_local(cid) and services.blobs.has(cid)
