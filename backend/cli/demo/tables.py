"""The demo's last page: what base and adapter answered, who paid and who earned."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.cli.demo.books import AccountSummary
    from backend.cli.demo.story import Outcome
    from backend.domain.ids import Account

MAX_CHARACTERS = 300


def answers_table(outcome: Outcome) -> Table:
    """One question to each adapter, beside what the base said to it."""
    table = Table(title="\nThe same question to base and adapter", show_lines=True, title_justify="left")
    for column in ("question", "base", "adapter"):
        table.add_column(column, ratio=1)
    adapters = {adapter.model for adapter in outcome.adapters}
    said_by_base = {a.question.text: a.text for a in outcome.answers if a.question.model not in adapters}
    for model in sorted(adapters):
        answer = next(
            a for a in outcome.answers if a.question.model == model and a.question.text in said_by_base
        )
        question = answer.question.text
        table.add_row(question, _shortened(said_by_base[question]), _shortened(answer.text))
    return table


def money_table(names: Mapping[Account, str], books: AccountSummary, charged: Mapping[str, int]) -> Table:
    """Micro-units: 10^-6 of the token's smallest unit. `charged`: by who paid."""
    table = Table(title="\nWho paid and who earned, in micro-units", title_justify="left")
    table.add_column("who")
    table.add_column("account")
    for column in ("paid", "earned", "claimed", "credited"):
        table.add_column(column, justify="right", no_wrap=True)
    for payer, paid in charged.items():
        table.add_row(payer, "", f"{paid:,}", "", "", "")
    for account, earned in sorted(books.credited.items(), key=lambda item: -item[1]):
        claimed = books.claimed[account]
        row = (names.get(account, "?"), f"{account[:10]}...", "", earned, claimed, earned - claimed)
        table.add_row(*(f"{cell:,}" if isinstance(cell, int) else cell for cell in row))
    table.add_section()
    claimed = sum(books.claimed.values())
    totals = (sum(charged.values()), sum(books.credited.values()), claimed, books.pot)
    table.add_row("together", "", *(f"{total:,}" for total in totals))
    return table


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "..."
