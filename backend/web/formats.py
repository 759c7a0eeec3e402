"""How pages write amounts, accounts, hashes and times: HTML that has the exact value too."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from backend.domain.hashing import keccak
from backend.domain.ids import Account
from backend.domain.money import AMOUNT, PPM, PRICE
from backend.domain.sign_in_message import checksummed
from backend.domain.texts import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

VOTE = 10**18
"""Smallest units of the market token in one vote."""
TITLE_LENGTH = 120
SIGNIFICANT = 4
"""Digits after the leading zeros that lists show; the exact amount is in the title."""


def usd(micro_units: int) -> Markup:
    """Exact dollars; the micro-units in the title."""
    return _amount(_with_cents(AMOUNT.decimal(micro_units)), micro_units)


def usd_short(micro_units: int) -> Markup:
    """Dollars with as many digits as a list needs, rounded down; the exact amount in the title."""
    return _amount(_shortened(micro_units), micro_units)


def usd_text(micro_units: int) -> str:
    """As `usd_short`, where no element fits: in titles and labels."""
    return f"${_shortened(micro_units)}"


def price(token_units: int) -> Markup:
    """Dollars per million tokens; the micro-units per token in the title."""
    text = _with_cents(PRICE.decimal(token_units))
    exact = f"{PRICE.decimal(token_units)} dollars per million tokens; {token_units} micro-units per token"
    return Markup('<data class="usd" value="{}" title="{}">${}</data>').format(
        PRICE.decimal(token_units), exact, text
    )


def percent(ppm: int) -> str:
    """A ratio in parts per million: `12.5 %`, exact to a hundredth of a percent."""
    text = f"{ppm * 100 / PPM:.2f}".rstrip("0").rstrip(".")
    return "< 0.01 %" if ppm > 0 and text == "0" else f"{text} %"


def votes(amount: int) -> Markup:
    """Votes of 10^-18 market tokens, rounded down to hundredths; the exact number in the title."""
    whole, rest = divmod(amount, VOTE)
    fraction = f"{rest * 100 // VOTE:02d}".rstrip("0")
    text = f"{whole:,}.{fraction}" if fraction else f"{whole:,}"
    return Markup('<data value="{0}" title="{0} x 10^-18 votes">{1} votes</data>').format(amount, text)


def title_of(text: str) -> str:
    """The first line of a Markdown text that says something."""
    lines = (line.lstrip("# ").strip() for line in text.splitlines())
    found = next((line for line in lines if line), "Without a title")
    return found if len(found) <= TITLE_LENGTH else f"{found[:TITLE_LENGTH]}…"


def body_of(text: str) -> str:
    """A Markdown text without the heading that is its title."""
    first, _, rest = text.strip().partition("\n")
    return rest if first.startswith("#") and rest.strip() else text


def count(number: int) -> str:
    return f"{number:,}"


def commands(text: str) -> Markup:
    """Plain text of ours, in which commands stand between backticks."""
    parts = text.split("`")
    forms = (Markup("<code>{}</code>") if index % 2 else Markup("{}") for index in range(len(parts)))
    return Markup("").join(form.format(part) for form, part in zip(forms, parts, strict=True))


def address(account: str, name: str = "") -> Markup:
    """A picture, the shortened account, and its `name` if it has one. The whole account, with its
    checksum, is in the title.
    """
    full = checksummed(Account(account))
    named = Markup(' <span class="hint">{}</span>').format(name) if name else ""
    return Markup('<span class="address" title="{}">{}<code>{}…{}</code>{}</span>').format(
        full, picture(account), full[:8], full[-6:], named
    )


def full_address(account: str) -> Markup:
    """A picture and the whole account with its checksum."""
    full = checksummed(Account(account))
    return Markup('<span class="address full">{}<code>{}</code></span>').format(picture(account), full)


def short_hash(value: str) -> Markup:
    return Markup('<code class="hash" title="{0}">{1}…{2}</code>').format(value, value[:10], value[-6:])


@lru_cache(maxsize=4096)
def picture(account: str) -> Markup:
    """A symmetric 5 x 5 pattern in a colour of the account, as SVG without styles."""
    digest = keccak(account.lower().encode())
    hue = int.from_bytes(digest[:2], "big") % 360
    cells = []
    for index in range(15):
        row, column = divmod(index, 3)
        if digest[2 + index] & 1:
            cells += [f"M{column} {row}h1v1h-1z"] + ([f"M{4 - column} {row}h1v1h-1z"] if column < 2 else [])
    return Markup(
        '<svg class="picture" viewBox="-.5 -.5 6 6" width="18" height="18" aria-hidden="true">'
        '<rect x="-.5" y="-.5" width="6" height="6" rx="1" fill="hsl({hue} 40% 88%)"/>'
        '<path d="{path}" fill="hsl({hue} 55% 36%)"/></svg>'
    ).format(hue=hue, path="".join(cells))


def when(unix_seconds: int) -> Markup:
    """A time in UTC, for people and for machines. Contracts accept times after the year 9999."""
    try:
        time = datetime.fromtimestamp(unix_seconds, UTC)
    except (ValueError, OverflowError, OSError):  # beyond year 9999, `time_t`, C's years
        return Markup("after the year 9999")
    return Markup('<time datetime="{}">{}</time>').format(
        time.isoformat(timespec="seconds"), f"{time.day} {time:%b %Y, %H:%M} UTC"
    )


def _shortened(micro_units: int) -> str:
    whole, _, fraction = AMOUNT.decimal(micro_units).partition(".")
    zeros = len(fraction) - len(fraction.lstrip("0")) if whole == "0" else 0
    kept = fraction[: zeros + SIGNIFICANT if whole == "0" else 2].rstrip("0")
    return _with_cents(f"{whole}.{kept}" if kept else whole)


def _amount(text: str, micro_units: int) -> Markup:
    return Markup('<data class="usd" value="{0}" title="{0} dollars; {1} micro-units">${2}</data>').format(
        AMOUNT.decimal(micro_units), f"{micro_units:,}", text
    )


def _with_cents(text: str) -> str:
    """At least two decimals, and separators of thousands."""
    whole, _, fraction = text.partition(".")
    return f"{int(whole):,}.{fraction.ljust(2, '0')}"


FILTERS: Mapping[str, Callable[..., object]] = {
    one.__name__: one
    for one in (
        usd,
        usd_short,
        usd_text,
        price,
        percent,
        votes,
        title_of,
        body_of,
        count,
        counted,
        commands,
        address,
        full_address,
        short_hash,
        picture,
        when,
    )
}
