from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from backend.cli import chat
from backend.client.errors import ApiError
from backend.domain.errors import Unavailable
from backend.domain.money import AMOUNT, UNIT
from tests.support.answering import answering
from tests.support.terminal import loopback_client

if TYPE_CHECKING:
    from collections.abc import Sequence

WORDS = {"choices": [{"delta": {"content": "hello"}}]}
CHARGED = {"choices": [{"delta": {}}], "loraledger": {"charge": AMOUNT.render(UNIT), "receipt_id": "0x12"}}
FOLLOWS = CHARGED | {"loraledger": {"charge": AMOUNT.render(UNIT), "charge_id": "0x34"}}
FAILURE = {"error": {"message": "the adapter left the numeric range", "code": "numerical_error"}}


def stream(events: Sequence[Any], **headers: str) -> Any:
    body = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
    with answering(200, "text/event-stream", body, **headers) as url, loopback_client(url) as client:
        return chat._print_stream(client, {})


@pytest.mark.parametrize(
    ("last", "bill"),
    [(CHARGED, "receipt 0x12"), (FOLLOWS, "charge 0x34, its receipt follows")],
)
@pytest.mark.parametrize(
    ("end", "headers", "error"),
    [([FAILURE], {}, ApiError), ([], {"content-length": "10000"}, Unavailable)],
)
def test_an_answer_that_ends_with_an_error_after_its_bill_shows_the_bill(
    last: Any,
    bill: str,
    end: list[Any],
    headers: dict[str, str],
    error: type[Exception],
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(error):
        stream([WORDS, last, *end], **headers)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("hello\n", f"0.000001 dollars; {bill}\n")


def test_an_answer_that_ends_without_a_bill_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ApiError):
        stream([WORDS, FAILURE])
    assert capsys.readouterr().err == ""


def test_an_answer_without_an_error_is_billed_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert stream([WORDS, CHARGED])["loraledger"]["receipt_id"] == "0x12"
    assert capsys.readouterr().err == ""
