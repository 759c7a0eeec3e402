from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.domain.batch_data import MAX_LINE, BatchName, MalformedBatch, decode, decode_chunks, encode
from tests.support.market import CHAIN_ID, Market

if TYPE_CHECKING:
    from collections.abc import Iterator

MARKET = Market(5)
RECEIPTS = tuple(MARKET.receipts(4))
NAME = BatchName(CHAIN_ID, MARKET.settlement, MARKET.operator, 1)
DATA = encode(NAME, RECEIPTS)


def test_batch_data_survives_a_round_trip() -> None:
    assert decode(DATA) == (NAME, RECEIPTS)


def test_lines_are_canonical_json_with_plain_names() -> None:
    first, second, *_ = DATA.decode().splitlines()
    assert json.loads(first) == {
        "format": "loraledger-batch-1",
        "chainId": "31337",
        "collector": MARKET.settlement,
        "operator": MARKET.operator,
        "number": "1",
    }
    fields = json.loads(second)
    assert fields["cumulative"] == str(RECEIPTS[0].receipt.cumulative)
    assert list(fields) == sorted(fields)
    assert second == json.dumps(fields, separators=(",", ":"))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_changed_byte_changes_or_breaks_the_data(data: st.DataObject) -> None:
    changed = bytearray(DATA)
    at = data.draw(st.integers(0, len(DATA) - 1))
    changed[at] ^= data.draw(st.integers(1, 255))
    with suppress(MalformedBatch):
        assert decode(bytes(changed)) != (NAME, RECEIPTS)


def spoiled(line: int, old: str, new: str) -> bytes:
    lines = DATA.decode().splitlines(keepends=True)
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new, 1)
    return "".join(lines).encode()


@pytest.mark.parametrize(
    ("line", "old", "new"),
    [
        (1, "loraledger-batch-1", "loraledger-batch-2"),
        (1, '"number":"1"', '"number":"01"'),
        (1, '"number":"1"', '"number":1'),
        (1, '"number":"1"', '"number":"-1"'),
        (1, '"number":"1"', '"number":"\\u0661"'),
        (1, '"number":"1"', '"number":"18446744073709551616"'),
        (1, MARKET.operator, MARKET.operator.upper()),
        (1, MARKET.operator, MARKET.operator[:-2]),
        (2, '"charge":', '"charge": '),
        (2, '"charge":', '"Charge":'),
        (2, '"charge":', '"charge":"1","charge":'),
        (3, '"list":"0x', '"list":"0x00'),
        (3, '"list":"0x', '"list":"0x  '),
        (3, '"slices":[', '"slices":[[],'),
        (3, '"method":"', '"method":"two words'),
        (4, "{", "[" * 5000),
        (4, '"method":"', '"method":"' + "m" * MAX_LINE),
        (4, "}\n", "}"),
        (5, "}\n", "}"),
        (5, "{", "null"),
    ],
)
def test_data_that_is_not_canonical_is_refused_with_its_line(line: int, old: str, new: str) -> None:
    with pytest.raises(MalformedBatch) as caught:
        decode(spoiled(line, old, new))
    assert caught.value.details["line"] == line


@pytest.mark.parametrize("data", [b"", b"\n", b"{}\n", b"null\n", b"\xff\n", b"[]"])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedBatch):
        decode(data)


@pytest.mark.parametrize("size", [1, 7, 1000, 4096, len(DATA)])
def test_chunks_of_any_size_are_decoded_alike(size: int) -> None:
    chunks = (DATA[start : start + size] for start in range(0, len(DATA), size))
    assert decode_chunks(chunks) == (NAME, RECEIPTS)


def test_a_line_without_end_is_refused_before_the_rest_is_read() -> None:
    read = []

    def chunks() -> Iterator[bytes]:
        yield DATA[: DATA.index(b"\n") + 1]
        for number in range(100):
            read.append(number)
            yield b"[" * MAX_LINE

    with pytest.raises(MalformedBatch) as caught:
        decode_chunks(chunks())
    assert caught.value.details["line"] == 2
    assert len(read) == 2
