"""One trace from a request to its receipt, its job and its transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opentelemetry.trace import format_trace_id
from sqlalchemy import select

from backend.db.tables.serving import ReceiptRow
from tests.support.tracing import by_name, name_of, parent_of, recorded
from tests.support.waiting import wait_for

if TYPE_CHECKING:
    from tests.integration.api.conftest import Api

CALLER = "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"


def test_an_answer_is_one_trace_from_the_client_to_the_receipt(api: Api) -> None:
    with recorded() as spans, api.http() as http:
        asked = {"model": "tiny", "prompt": "my own business"}
        answer = http.post("/v1/completions", json=asked, headers={"traceparent": CALLER}).json()
        # The server's span ends after its response is sent.
        wait_for(lambda: "POST /v1/completions" in by_name(spans))
    found = by_name(spans)
    server = found["POST /v1/completions"]
    assert parent_of(server) == CALLER
    for name in ("reserve", "chat tiny", "receipt"):
        assert parent_of(found[name]) == name_of(server)
    attributes = found["receipt"].attributes or {}
    assert attributes["loraledger.receipt_id"] == answer["loraledger"]["receipt_id"]
    with api.installation.begin() as tx:
        (kept,) = tx.session.scalars(select(ReceiptRow.trace))
    assert (kept or "")[:-3] == name_of(found["receipt"])[:-3]  # but for the flags
    text = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "my own business" not in text
    assert api.key not in text


def test_a_transaction_that_a_request_wished_for_keeps_its_trace(api: Api) -> None:
    relayed = {"grant": {"key": api.installation.operator, "cap": "9", "expiry": 4_000_000_000}}
    relayed |= {"nonce": "0", "signature": "0x" + "ab" * 65}
    with recorded(), api.http(api.session) as http:
        answer = http.post("/v1/sessions/relay", json=relayed, headers={"traceparent": CALLER})
        assert answer.status_code == 202
    with api.installation.read() as tx:
        (wish,) = tx.transactions.requested(api.installation.payer.account, None, 10)
    assert wish.trace is not None
    assert wish.trace.split("-")[1] == format_trace_id(int("ab" * 16, 16))


def test_without_traces_nothing_is_kept(api: Api) -> None:
    with api.installation.begin() as tx:
        number = tx.transactions.enqueue(api.installation.operator, "PaymentVault", "thaw", [], "untraced")
        assert tx.transactions.get(number).trace is None
