"""Answers whose receipts follow their charges, as clients see them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from backend.chain.keys import recover
from backend.domain.hashing import charge_id, receipt_id, slices_hash
from backend.domain.receipt import Charge, Receipt, Slice
from backend.services.channels.charges import sign_overdue
from tests.integration.api.conftest import sign_in
from tests.support.fakes import some_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.api.conftest import Api
    from tests.support.fakes import FakeGradients


@pytest.fixture
def waiting(api: Api) -> FakeGradients:
    """A stage that answers nothing until it is released."""
    gradients = api.installation.use_gradient_stage()
    gradients.answers.clear()
    return gradients


@pytest.fixture(autouse=True)
def _served(api: Api, waiting: FakeGradients, server: tuple[Any, str]) -> Iterator[None]:
    server[0].state.services = api.installation.services
    yield
    waiting.answers.set()


def ask(api: Api, *, stream: bool = False, headers: dict[str, str] | None = None) -> dict[str, Any]:
    body = {"model": api.installation.version, "messages": [{"role": "user", "content": "hi"}]}
    with api.http() as http:
        for _ in range(600):
            found = http.post("/v1/chat/completions", json=body | {"stream": stream}, headers=headers or {})
            if found.status_code != 409:  # the first request under the key is still being stored
                break
            time.sleep(0.05)
    assert found.status_code == 200, found.text
    if not stream:
        return dict(found.json()["loraledger"])
    last = [line for line in found.text.splitlines() if line.startswith("data: {")][-1]
    return dict(json.loads(last.removeprefix("data: "))["loraledger"])


def sign_overdue_now(api: Api) -> int:
    built = api.installation
    built.clock.pass_seconds(60)
    now = int(built.clock().timestamp())
    with built.begin() as tx:
        return sign_overdue(tx, built.operator, built.domain, lambda _: built.receipt_key, now)


@pytest.mark.parametrize("stream", [False, True])
def test_the_last_chunk_has_the_charge_and_its_id_leads_to_the_receipt(api: Api, stream: bool) -> None:
    bill = ask(api, stream=stream)
    assert "receipt_id" not in bill
    assert "attribution" not in bill
    path = f"/v1/receipts/{bill['charge_id']}"
    with api.http() as http:
        pending = http.get(path)
        assert http.get("/v1/receipts").json()["data"] == []
        refused = http.get(f"/v1/attribution/{bill['charge_id']}")
        assert sign_overdue_now(api) == 1
        found = http.get(path)
        attribution = http.get(f"/v1/attribution/{bill['charge_id']}").json()
    assert (pending.status_code, pending.json()["status"]) == (202, "pending")
    assert pending.json()["salt"] == bill["salt"]
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "receipt_pending")
    assert (found.status_code, attribution["receipt_id"]) == (200, found.json()["id"])
    check_charge(api, pending.json())
    check_receipt(found.json(), pending.json())


def check_charge(api: Api, pending: dict[str, Any]) -> None:
    """What the payer can verify before the receipt exists."""
    signed = pending["signed"]
    charge = Charge(**{name: _number(signed[name]) for name in Charge.__slots__})
    assert pending["id"] == charge_id(charge)
    slices = [Slice(part["version_id"], part["weight_ppm"], ()) for part in pending["slices"]]
    assert slices_hash(slices) == charge.slices_hash
    signer = recover(api.installation.domain.charge_digest(charge), pending["signature"])
    assert signer == api.installation.receipt_key.account


def check_receipt(found: dict[str, Any], pending: dict[str, Any]) -> None:
    receipt = Receipt(**{name: _number(found["receipt"][name]) for name in Receipt.__slots__})
    assert found["id"] == receipt_id(receipt)
    assert found["signed_charge"] == {
        "id": pending["id"],
        "receipt_by": pending["signed"]["receipt_by"],
        "signature": pending["signature"],
    }
    shared = set(Charge.__slots__) - {"receipt_by"}
    assert all(found["receipt"][name] == pending["signed"][name] for name in shared)


def _number(value: Any) -> Any:
    return int(value) if isinstance(value, str) and not value.startswith("0x") else value


def test_a_replay_names_the_same_charge(api: Api) -> None:
    headers = {"idempotency-key": '"retry-1"'}
    first = ask(api, headers=headers)
    assert ask(api, headers=headers) == first
    assert len(api.installation.engine.requests) == 1


def test_the_salt_is_for_the_payer_only(api: Api) -> None:
    bill = ask(api)
    other = sign_in(api.url, some_key("someone else"))
    with api.http(other) as http:
        found = http.get(f"/v1/receipts/{bill['charge_id']}")
    assert (found.status_code, found.json()["salt"]) == (202, None)
