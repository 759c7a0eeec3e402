from __future__ import annotations

import asyncio
from typing import Any

import pytest

from backend.cli.payment_proxy import PaymentProxy
from backend.loopback import free_port
from tests.support.answering import JSON, answering

NO_SIGNER: Any = None


@pytest.mark.parametrize(
    ("url", "takes_proxy"), [("http://[::1]:80", False), ("https://market.example", True)]
)
def test_a_proxy_of_the_environment_leads_to_other_machines_only(url: str, takes_proxy: bool) -> None:
    assert PaymentProxy(url, "key", NO_SIGNER)._http.trust_env is takes_proxy


def test_the_key_of_a_gateway_on_loopback_goes_to_no_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with answering(200, JSON, '{"charged": 0}') as url:
        assert asyncio.run(PaymentProxy(url, "key", NO_SIGNER)._call("GET", "/v1/channels/1")) == {
            "charged": 0
        }
