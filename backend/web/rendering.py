"""Renders templates. Everything is escaped, except what `formats` and `markdown` build."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context
from jinja2_fragments import render_block
from starlette.responses import HTMLResponse

from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.web import formats
from backend.web.markdown import render_card
from backend.web.visitor import form_token, get_visitor

if TYPE_CHECKING:
    from fastapi import Request
    from jinja2.runtime import Context
    from markupsafe import Markup

TEMPLATES = Path(__file__).parent / "templates"


def is_fragment(request: Request) -> bool:
    """Whether htmx asks for a part of the page."""
    return request.headers.get("hx-request") == "true"


def render(
    request: Request, template: str, block: str | None = None, status: int = 200, **context: Any
) -> HTMLResponse:
    """Render a page; if htmx asks, its `block` alone."""
    names = context | {"request": request, "status": status, "visitor": get_visitor(request)}
    names["form_token"] = lambda: form_token(request)
    services = request.app.state.services
    names["chain_id"] = services.sign_in.chain_id
    is_local = names["chain_id"] == LOCAL_CHAIN_ID
    names["local_node"] = request.app.state.node_url if is_local else None  # elsewhere it may contain a key
    names["known"] = {services.overviews.own: "this operator"}
    if names["visitor"] is not None:
        names["known"] |= {names["visitor"].account: "you"}
    names["asset"] = lambda path: _asset_url(request, path)
    environment = _environment()
    if block is not None and is_fragment(request):
        return HTMLResponse(render_block(environment, template, block, **names), status)
    return HTMLResponse(environment.get_template(template).render(**names), status)


def render_signed_out(request: Request, title: str, lead: str) -> HTMLResponse:
    """A page that is a signed-in wallet's. If htmx asks, the wallet has signed out since: the whole page,
    which names it, is loaded again.
    """
    if is_fragment(request):
        return HTMLResponse(headers={"hx-refresh": "true"})
    return render(request, "signed_out.html", title=title, lead=lead)


@pass_context
def _named(context: Context, account: str) -> Markup:
    """An address, and whose it is if that is known."""
    return formats.address(account, context["known"].get(account, ""))


def _asset_url(request: Request, path: str) -> str:
    found = request.app.state.assets.get(path)
    return found.url if found else f"/static/{path}"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(formats.FILTERS)
    environment.filters["card"] = render_card
    environment.filters["named"] = _named
    return environment
