from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.testclient import TestClient

from backend.api.app import MAX_BODY_BYTES, create_app
from backend.domain.readiness import Fault
from backend.settings import Settings

SIGN_IN = SimpleNamespace(chain_id=31337)


class Closing:
    def __init__(self) -> None:
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True


def test_the_server_ends_only_after_running_answers_have_their_receipts() -> None:
    generate, rate_limits = Closing(), Closing()
    sampling = SimpleNamespace(running=nullcontext)
    services: Any = SimpleNamespace(
        sign_in=SIGN_IN, generate=generate, rate_limits=rate_limits, live_agreements=sampling
    )
    with TestClient(create_app(services, Settings())) as client:
        assert client.get("/health").json() == {"status": "ok"}
        assert not generate.is_closed
    assert generate.is_closed
    assert rate_limits.is_closed


@pytest.mark.parametrize(
    ("faults", "status", "code"),
    [
        ({}, "ok", 200),
        ({"engine": Fault("no socket")}, "unavailable", 503),
        ({"engine": Fault("no socket of b", is_partial=True)}, "degraded", 200),
        ({"disk": Fault("full"), "engine": Fault("no socket of b", is_partial=True)}, "unavailable", 503),
    ],
)
def test_readiness_names_the_faults_and_is_a_503_if_nothing_can_be_answered(
    faults: dict[str, Fault], status: str, code: int
) -> None:
    async def readiness() -> dict[str, Fault]:
        return faults

    services: Any = SimpleNamespace(sign_in=SIGN_IN, generate=Closing(), readiness=readiness)
    answer = TestClient(create_app(services, Settings())).get("/ready")
    assert answer.status_code == code
    texts = {name: fault.text for name, fault in faults.items()}
    assert answer.json() == {"status": status, "faults": texts}


def test_a_defect_is_a_500_without_internal_details(caplog: pytest.LogCaptureFixture) -> None:
    async def broken() -> dict[str, Fault]:
        raise RuntimeError("secret path /etc/keys")

    services: Any = SimpleNamespace(sign_in=SIGN_IN, generate=Closing(), readiness=broken)
    client = TestClient(create_app(services, Settings()))
    answer = client.get("/ready")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in caplog.text


def test_every_route_is_in_the_openapi_document_once() -> None:
    services: Any = SimpleNamespace(sign_in=SIGN_IN, generate=Closing())
    document = create_app(services, Settings()).openapi()
    operations = [
        operation["operationId"] for path in document["paths"].values() for operation in path.values()
    ]
    assert len(operations) == len(set(operations)) > 50


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/contributions/x/submit"),
        ("POST", "/v1/contributionsx"),
        ("PUT", "/v1/contributions"),
        ("POST", "/v1/auth/sessions"),
    ],
)
def test_only_an_upload_may_be_large(method: str, path: str) -> None:
    services: Any = SimpleNamespace(sign_in=SIGN_IN, generate=Closing())
    client = TestClient(create_app(services, Settings(max_upload_bytes=1 << 30)))
    answer = client.request(method, path, content=b" " * (MAX_BODY_BYTES + 1))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")
