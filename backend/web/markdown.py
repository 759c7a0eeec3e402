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
LINK_RELATION = "noopener noreferrer nofollow ugc"
_LEVELS = {f"h{level}": f"h{min(level + 2, 6)}" for level in range(1, 7)}


@lru_cache(maxsize=64)
def render_card(text: str) -> Markup:
    """Headings move two levels down, below those of the page. HTML in the text is shown as text.

    Results are kept, because a hostile text of 64 KiB takes more than a second.
    """
    cleaned = nh3.clean(
        _parser().render(text),
        tags=TAGS,
        attributes={"a": {"href"}},
        url_schemes={"http", "https"},
        link_rel=LINK_RELATION,
    )
    return Markup(cleaned)  # noqa: S704 - cleaned by nh3


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("image")

    def lower_headings(state: object) -> None:
        for token in state.tokens:  # type: ignore[attr-defined]
            token.tag = _LEVELS.get(token.tag, token.tag)

    parser.core.ruler.push("lower_headings", lower_headings)
    return parser
