from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from backend.domain.catalogue import Agreement
from backend.services.market.agreements import MAX_HEADER_BYTES, read_agreement

METADATA = {
    "version": "2",
    "methods": "distilled-1 distilled-error-1 error-ridge-1",
    "distilled_agreement": "0.75",
    "distilled_error_agreement": "-0.5",
    "num_kept_out": "64",
}


def index(**changes: str | None) -> bytes:
    metadata = {name: value for name, value in (METADATA | changes).items() if value is not None}
    return save({"rows": np.ones(3, dtype=np.int64)}, metadata)


def test_agreements_are_read_from_the_header_whatever_the_chunks() -> None:
    content = index()
    expected = Agreement({"distilled-1": 0.75, "distilled-error-1": -0.5}, 64)
    assert read_agreement([content]) == expected
    assert read_agreement(content[i : i + 1] for i in range(len(content))) == expected


def test_a_method_that_the_index_does_not_have_has_no_agreement() -> None:
    assert read_agreement([index(methods="distilled-error-1")]) == Agreement({"distilled-error-1": -0.5}, 64)
    assert read_agreement([index(methods="error-ridge-1")]) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"distilled_agreement": "1.5"},
        {"distilled_agreement": "nan"},
        {"distilled_agreement": "good"},
        {"distilled_agreement": None},
        {"num_kept_out": "0"},
        {"num_kept_out": "-3"},
        {"num_kept_out": "1e3"},
        {"num_kept_out": "9" * 30},
        {"num_kept_out": None},
        {"methods": None},
    ],
)
def test_impossible_statements_are_none(changes: dict[str, Any]) -> None:
    assert read_agreement([index(**changes)]) is None


@given(content=st.binary(max_size=200))
def test_any_bytes_state_nothing(content: bytes) -> None:
    assert read_agreement([content]) is None


@pytest.mark.parametrize(
    "header",
    [
        [],
        {},
        {"__metadata__": []},
        {"__metadata__": {"methods": 1}},
        {"__metadata__": {"methods": []}},
        {"__metadata__": METADATA | {"num_kept_out": math.inf}},
        {"__metadata__": METADATA | {"distilled_agreement": 10**400}},
    ],
)
def test_a_header_of_another_form_states_nothing(header: Any) -> None:
    text = json.dumps(header).encode()
    assert read_agreement([len(text).to_bytes(8, "little") + text]) is None


def test_no_more_than_a_header_is_read() -> None:
    num_read = 0

    def endless() -> Any:
        nonlocal num_read
        yield b"\xff" * 7 + b"\x00"
        while True:
            num_read += 1
            yield b"[" * 1024

    assert read_agreement(endless()) is None
    assert num_read == MAX_HEADER_BYTES // 1024
