"""Pages of other origins: only those that the operator names may call the API from a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import pytest

from backend.api.app import create_app
from backend.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.scripted_installation import ScriptedInstallation

ALLOWED, OTHER = "https://app.example.org", "https://evil.example"
PREFLIGHT = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, idempotency-key",
}


@pytest.fixture(params=["", f"{ALLOWED}, http://localhost:5173"])
async def client(
    request: pytest.FixtureRequest, installation: ScriptedInstallation
) -> AsyncIterator[tuple[bool, httpx.AsyncClient]]:
    """Whether an origin is allowed, and a client of the API."""
    app = create_app(installation.services, Settings(cors_origins=request.param))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://market") as opened:
        yield bool(request.param), opened


def allowed_origin(answer: httpx.Response) -> Any:
    return answer.headers.get("access-control-allow-origin")


async def test_a_named_origin_may_call(client: tuple[bool, httpx.AsyncClient]) -> None:
    is_named, http = client
    preflight = await http.options("/v1/chat/completions", headers={"origin": ALLOWED, **PREFLIGHT})
    answer = await http.get("/v1/models", headers={"origin": ALLOWED})
    refusal = await http.get("/v1/receipts", headers={"origin": ALLOWED})
    expected = ALLOWED if is_named else None
    assert [allowed_origin(each) for each in (preflight, answer, refusal)] == [expected] * 3
    assert answer.status_code == 200
    assert refusal.status_code == 401
    if is_named:
        assert preflight.status_code == 200
        assert "idempotency-key" in preflight.headers["access-control-allow-headers"]
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers


async def test_another_origin_may_not(client: tuple[bool, httpx.AsyncClient]) -> None:
    _, http = client
    preflight = await http.options("/v1/chat/completions", headers={"origin": OTHER, **PREFLIGHT})
    answer = await http.get("/v1/models", headers={"origin": OTHER})
    assert preflight.status_code in (400, 405)
    assert allowed_origin(preflight) is None
    assert allowed_origin(answer) is None
