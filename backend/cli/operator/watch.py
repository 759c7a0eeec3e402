"""`loraledger watch`: verify every batch before it is final, and dispute the wrong ones."""

from __future__ import annotations

import json
import logging
import signal
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.cli.operator.session import parse_account
from backend.cli.output import echo
from backend.domain.errors import Conflict
from telemetry import logs, metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.installation.watcher import WatchOptions
    from backend.services.watch.news import News
    from backend.settings import Settings

HELP = "Default: LORALEDGER_WATCH_{}."

Challenge = Annotated[
    bool,
    typer.Option("--challenge", help="Demand withheld data, send fraud proofs, and refund the payers."),
]
Answer = Annotated[
    bool | None,
    typer.Option(
        help="Answer demands for every operator whose batch data is stored here, or for none. "
        "Default: for this installation's operator, if its key is available."
    ),
]
Once = Annotated[
    bool,
    typer.Option(
        "--once", help="End at the newest batches. Exit code 1 if a batch is wrong or its data withheld."
    ),
]
MaxBond = Annotated[
    int | None,
    typer.Option(help=f"Most in open bonds, in gwei. {HELP.format('MAX_BOND')}", min=0),
]
MaxGas = Annotated[
    int | None, typer.Option(help=f"Gas limit of a transaction. {HELP.format('MAX_GAS')}", min=21_000)
]
Evidence = Annotated[
    Path | None,
    typer.Option(
        help="File of receipts from other sources, in the format of batch data: a batch that collects the "
        "same amounts by other receipts is voided by them. Read again when it changes."
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(watch)
    app.command()(withdraw_credit)


def watch(
    *,
    challenge: Challenge = False,
    answer: Answer = None,
    operator: Annotated[str, typer.Option(help="Watch this operator only. Default: all.")] = "",
    once: Once = False,
    max_bond: MaxBond = None,
    max_gas: MaxGas = None,
    evidence: Evidence = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")] = False,
) -> None:
    """Follow the chain and verify every batch before it is final, from the chain and batch data alone.

    LORALEDGER_WATCHER pays for transactions, at most LORALEDGER_WATCH_MAX_GAS_PRICE for gas, and more only
    for answers that avert a slash. SIGTERM or Ctrl-C stops it.
    """
    from backend.settings import load_settings

    settings = _override(load_settings(), {"watch_max_bond": max_bond, "watch_max_gas": max_gas})
    if not once:
        metrics.enable_multiprocess(settings.metrics_folder, "watch")  # before a module that defines metrics
    from backend.installation.watcher import WatchOptions

    options = WatchOptions(can_challenge=challenge, can_answer=answer, evidence=evidence)
    is_wrong = False
    for news in _news(settings, options, operator, once=once):
        is_wrong |= news.is_bad
        echo(_as_json(news) if as_json else _as_line(news))
    if once and is_wrong:
        raise typer.Exit(1)


def _news(settings: Settings, options: WatchOptions, operator: str, *, once: bool) -> Iterator[News]:
    from backend.installation.installation import Installation
    from backend.installation.watcher import open_watcher

    logs.setup(settings.log_format, logging.WARNING)
    stop = threading.Event()
    if not once:  # a pass may be interrupted anywhere
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    installation = Installation(settings)
    try:
        options = replace(options, only=parse_account(installation, operator) if operator else None)
        with open_watcher(installation, options, stop) as watcher:
            yield from watcher.run_once() if once else watcher.run(stop)
    finally:
        installation.close()


def withdraw_credit() -> None:
    """Withdraw what returned bonds and answers credited to LORALEDGER_WATCHER.

    Until then the credit pays for the watcher's further bonds.
    """
    from backend.installation import watcher
    from backend.installation.installation import Installation
    from backend.settings import load_settings

    settings = load_settings()
    logs.setup(settings.log_format, logging.WARNING)
    installation = Installation(settings)
    try:
        result = watcher.withdraw_credit(installation)
    finally:
        installation.close()
    if not result.is_done:
        raise Conflict(f"the credit was not withdrawn: {result.error}")
    echo(f"withdrawn in transaction {result.tx_hash}")


def _override(settings: Settings, limits: dict[str, int | None]) -> Settings:
    return settings.model_copy(update={name: value for name, value in limits.items() if value is not None})


def _as_json(news: News) -> str:
    return json.dumps(asdict(news))


def _as_line(news: News) -> str:
    sent = f" ({news.tx_hash})" if news.tx_hash else ""
    subject = f"batch {news.number} of {news.operator}" if news.number else news.operator
    return f"{news.what:13} {subject}: {news.message}{sent}"
