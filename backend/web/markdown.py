"""Renders Markdown that others wrote: model cards, descriptions, proposals. All of it is hostile."""

from __future__ import annotations

from functools import cache, lru_cache

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup

TAGS = {
    *("p", "br", "hr", "em", "strong", "del", "code", "pre", "blockquote"),
    *("ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "a"),
    *("h3", "h4", "h5", "h6"),
}
"""Without images: they would tell their server who reads."""
MAX_CELLS = 2000
"""Cells of a text's tables; of more, tables are shown as they are written. A text of 64 KiB can have 65,000
cells, because short rows are filled up.
"""
_CELLS = {"th_open", "td_open"}
LINK_RELATION = "noopener noreferrer nofollow ugc"
_LEVELS = {f"h{level}": f"h{min(level + 2, 6)}" for level in range(1, 7)}


@lru_cache(maxsize=64)
def render_card(text: str) -> Markup:
    """Headings move two levels down, below those of the page. HTML in the text is shown as text.

    Results are kept, because a hostile text of 64 KiB takes more than a second.
    """
    parser = _parser(has_tables=True)
    if sum(token.type in _CELLS for token in parser.parse(text)) > MAX_CELLS:
        parser = _parser(has_tables=False)
    cleaned = nh3.clean(
        parser.render(text),
        tags=TAGS,
        attributes={"a": {"href"}},
        url_schemes={"http", "https"},
        link_rel=LINK_RELATION,
    )
    return Markup(cleaned)  # noqa: S704 - cleaned by nh3


@cache
def _parser(*, has_tables: bool) -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable("strikethrough").disable("image")
    if has_tables:
        parser.enable("table")

    def lower_headings(state: object) -> None:
        for token in state.tokens:  # type: ignore[attr-defined]
            token.tag = _LEVELS.get(token.tag, token.tag)

    parser.core.ruler.push("lower_headings", lower_headings)
    return parser
