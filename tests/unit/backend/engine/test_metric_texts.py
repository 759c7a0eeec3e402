"""What a server answers instead of metrics is refused with the line where it begins."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.engine.metric_texts import checked
from backend.ports.engine import MalformedMetrics

WELL_FORMED = '# HELP n Of it.\n# TYPE n gauge\nn{kind="k"} 1.0\n'


@pytest.mark.parametrize(
    "line",
    ["<!doctype html>", '{"error": "no"}', 'n{kind="k} 1', "n x", "n{", "# TYPE n", "\x00 1", "n{k=1} 2"],
)
def test_a_malformed_line_is_named(line: str) -> None:
    with pytest.raises(MalformedMetrics, match=r"of a server are not in .*; line 4 is "):
        checked(f"{WELL_FORMED}{line}\n", "a server")


def test_a_long_line_is_cut() -> None:
    with pytest.raises(MalformedMetrics) as refused:
        checked("<" * 10**6, "a server")
    assert len(refused.value.message) < 200


@given(st.text(alphabet=st.sampled_from('n{}="#\\ \n1.eETYPHL,x\x00é'), max_size=40))
def test_any_text_is_readable_or_refused(text: str) -> None:
    with suppress(MalformedMetrics):
        assert checked(text, "a server") == text
