"""Tables of the demo's result: answers of base model and adapters, payments and earnings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from backend.domain.money import AMOUNT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from backend.cli.operator.demo.reconciliation import Reconciliation
    from backend.cli.operator.demo.scenario import Outcome
    from backend.domain.ids import Account

MAX_CHARACTERS = 300


def answers_table(outcome: Outcome) -> Table:
    """For each adapter, one question with the answers of the base model and of the adapter."""
    table = Table(title="\nAnswers of base model and adapter", show_lines=True, title_justify="left")
    for column in ("question", "base", "adapter"):
        table.add_column(column, ratio=1)
    adapters = {adapter.model for adapter in outcome.adapters}
    base_answers = {a.question.text: a.text for a in outcome.answers if a.question.model not in adapters}
    for model in sorted(adapters):
        answer = next(
            a for a in outcome.answers if a.question.model == model and a.question.text in base_answers
        )
        question = answer.question.text
        table.add_row(question, _shorten(base_answers[question]), _shorten(answer.text))
    return table


def money_table(
    names: Mapping[Account, str], reconciliation: Reconciliation, charged: Mapping[str, int]
) -> Table:
    """Amounts in micro-units, shown as exact dollars. `charged`: by payer."""
    table = Table(title="\nPayments and earnings, in dollars", title_justify="left")
    table.add_column("role")
    table.add_column("account")
    for column in ("paid", "earned", "claimed", "credited"):
        table.add_column(column, justify="right", no_wrap=True)
    for payer, paid in charged.items():
        table.add_row(payer, "", _dollars(paid), "", "", "")
    for account, earned in sorted(reconciliation.credited.items(), key=lambda item: -item[1]):
        claimed = reconciliation.claimed[account]
        row = (names.get(account, "?"), f"{account[:10]}...", "", earned, claimed, earned - claimed)
        table.add_row(*(_dollars(cell) if isinstance(cell, int) else cell for cell in row))
    table.add_section()
    claimed = sum(reconciliation.claimed.values())
    totals = (sum(charged.values()), sum(reconciliation.credited.values()), claimed, reconciliation.pot)
    table.add_row("total", "", *map(_dollars, totals))
    return table


def _dollars(amount: int) -> str:
    """All decimals, so that columns align."""
    whole, _, fraction = AMOUNT.decimal(amount).partition(".")
    return f"{whole}.{fraction.ljust(AMOUNT.decimals, '0')}"


def _shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + "..."
