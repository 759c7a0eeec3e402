from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.web.markdown import TAGS, render_card

_TAG = re.compile(r"<(/?)([a-z0-9]+)([^>]*)>")
_LINK = re.compile(r'( href="https?://[^"]*")? rel="[a-z ]+"')


def test_a_card_keeps_its_structure_below_the_headings_of_the_page() -> None:
    html = render_card("# Title\n\n**bold** [here](https://e.example)\n\n- one\n\n| a |\n| - |\n| b |")
    assert "<h3>Title</h3>" in html
    assert '<a href="https://e.example" rel="noopener noreferrer nofollow ugc">here</a>' in html
    for element in ("<strong>bold</strong>", "<li>one</li>", "<td>b</td>"):
        assert element in html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "![x](https://tracker.example/x.png)",
        "[x](javascript:alert(1))",
        "[x](data:text/html,<script>1</script>)",
        '<a href="https://e.example" hx-get="/">x</a>',
        "<https://e.example/?<script>>",
    ],
)
def test_hostile_text_becomes_no_element(text: str) -> None:
    check(render_card(text))


@given(st.text(alphabet="<>\"'`[]()!#*_|-=:/ \n&;ascriptjvhfonerlxmg123", max_size=200))
def test_any_text_becomes_harmless_elements_alone(text: str) -> None:
    check(render_card(text))


def check(html: str) -> None:
    for _, tag, attributes in _TAG.findall(html):
        assert tag in TAGS
        assert not attributes or (tag == "a" and _LINK.fullmatch(attributes))
