"""Reads model cards: Markdown with YAML front matter. Both are untrusted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

from backend.domain.catalogue import Card
from backend.domain.texts import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_CARD_BYTES = 64 << 10
MAX_TITLE, MAX_SUMMARY, MAX_TAGS, MAX_TAG = 200, 400, 32, 64
_FRONT_MATTER = re.compile(r"---[ \t]*\n(.*?\n)---[ \t]*(?:\n|$)", re.DOTALL)
_LOADER = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
"""The one in C takes milliseconds for nesting that takes the other seconds; it is in all wheels of PyYAML."""
_BLOCK = re.compile(r"[#|`<\-*\d]")
"""First character of lines that are no paragraph: headings, tables, code, HTML, lists."""


def read_card(raw: bytes) -> Card:
    """Parse a card. Text that is malformed is kept as it is: a card has no form that must be kept to."""
    content = printable(raw.decode(errors="replace").replace("\r\n", "\n"))
    front = _FRONT_MATTER.match(content)
    text = content[front.end() :].strip() if front else content.strip()
    tags = tuple(_tags(_metadata(front[1]) if front else {}))
    return Card(_title(text), _summary(text), tags, text)


def _metadata(front_matter: str) -> Mapping[str, Any]:
    try:
        # Of lists, maps and strings alone: other constructors raise errors of many types on hostile values.
        found = yaml.load(front_matter, Loader=_LOADER)  # noqa: S506 - it builds no objects
    except (yaml.YAMLError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _tags(metadata: Mapping[str, Any]) -> Iterator[str]:
    tags = metadata.get("tags")
    for tag in tags[:MAX_TAGS] if isinstance(tags, list) else ():
        # YAML's escapes add characters that the front matter does not have.
        if isinstance(tag, str) and (text := " ".join(printable(tag).split())[:MAX_TAG]):
            yield text


def _title(text: str) -> str:
    heading = re.search(r"^#[ \t]+(.+)$", text, re.MULTILINE)
    return heading[1].strip()[:MAX_TITLE] if heading else ""


def _summary(text: str) -> str:
    unquoted = re.sub("^> ?", "", text, flags=re.MULTILINE)
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", unquoted))
    found = next((part for part in paragraphs if part and not _BLOCK.match(part)), "")
    return found if len(found) <= MAX_SUMMARY else f"{found[: MAX_SUMMARY - 3]}..."
