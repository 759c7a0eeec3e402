"""Wires the watcher, with a database of its own, so that it does not depend on the installation's."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from backend.domain.batch_data import decode
from backend.domain.errors import Conflict, NotFound
from backend.domain.money import GWEI
from backend.installation.audit import Audit

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt
    from backend.domain.transactions import CallResult
    from backend.installation.installation import Installation
    from backend.services.watch.answers import Answers
    from backend.services.watch.challenge import Challenge
    from backend.services.watch.transactions import WatcherTransactions
    from backend.services.watch.watcher import Watcher
    from backend.settings import Settings

KEPT_FOR_ANSWERS = 4
"""Transactions of `LORALEDGER_WATCH_MAX_GAS` whose gas bonds leave to answers for the own operator. One is
some twenty of the most expensive answers, but gas may cost several times as much by then.
"""


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """Actions that a watcher takes besides reporting."""

    can_challenge: bool = False
    can_answer: bool | None = None
    """Whether to answer demands on every operator whose batch data is stored here. None: only those on this
    installation's operator, if its key is available.
    """
    only: Account | None = None
    """The one operator to watch; None: all."""
    evidence: Path | None = None
    """File with receipts from other sources, in the format of batch data; read again when it changes."""


@contextmanager
def open_watcher(
    installation: Installation, options: WatchOptions, stop: threading.Event
) -> Iterator[Watcher]:
    """Open a watcher whose waits, and the index of the chain, end once `stop` is set.

    Errors: `InvalidInput` or `NotFound` if it may send transactions and its key is not available.
    """
    from backend.chain.indexer import Indexer
    from backend.domain.judging.judge import judge
    from backend.services.watch.watcher import Watcher

    chain = installation.chain
    own = None if options.can_answer is False else installation.operator_account
    can_send = options.can_challenge or options.can_answer or own
    db = _open_database(installation.settings, installation.deployment.block_hash)
    try:
        num_kept = 1 if own is None else KEPT_FOR_ANSWERS
        transactions = _transactions(installation, db, stop, num_kept) if can_send else None
        indexer = Indexer(chain, db.event_log, installation.deployment, confirmations=0)
        yield Watcher(
            follow=partial(indexer.catch_up, stop),
            db=db,
            chain=chain,
            cases=Audit(installation, db).cases(),
            judge=judge,
            challenge=_challenge(installation, transactions)
            if transactions and options.can_challenge
            else None,
            answers=_answers(installation, db, transactions, own)
            if transactions and (options.can_answer or own)
            else None,
            carry_on=transactions.send_pending if transactions else None,
            own=own,
            answers_for_all=bool(options.can_answer),
            only=options.only,
            evidence=tuple if options.evidence is None else _EvidenceFile(options.evidence),
        )
    finally:
        db.close()


def withdraw_credit(installation: Installation) -> CallResult:
    """Withdraw what returned bonds and answers credited to the watcher's account.

    Errors: `NotFound` without credit, `InvalidInput` or `NotFound` without the watcher's key, `Unavailable`.
    """
    from backend.chain.indexer import Indexer

    db = _open_database(installation.settings, installation.deployment.block_hash)
    try:
        transactions = _transactions(installation, db)
        # An earlier withdrawal counts as this one until the view has its block.
        Indexer(installation.chain, db.event_log, installation.deployment, confirmations=0).catch_up()
        return transactions.withdraw_credit()
    finally:
        db.close()


def _transactions(
    installation: Installation, db: Database, stop: threading.Event | None = None, num_kept: int = 1
) -> WatcherTransactions:
    from backend.chain.sending.sender import Sender
    from backend.services.watch.transactions import GasLimits, WatcherTransactions

    settings, signer = installation.settings, installation.watcher_key
    limits = GasLimits(settings.watch_max_gas, settings.watch_max_gas_price * GWEI)
    signers = {signer.account: signer}
    queue, confirmations = db.send_queue, settings.confirmations
    sender = Sender(installation.chain, queue, signers.get, confirmations, account=lambda: signer.account)
    return WatcherTransactions(
        db, installation.chain, signer.account, sender.run_once, limits, stop, num_kept
    )


def _challenge(installation: Installation, transactions: WatcherTransactions) -> Challenge:
    from backend.services.watch.challenge import Challenge

    return Challenge(installation.chain, transactions, installation.settings.watch_max_bond * GWEI)


def _answers(
    installation: Installation, db: Database, transactions: WatcherTransactions, own: Account | None
) -> Answers:
    from backend.services.watch.answers import Answers

    auditor, coin_units = Audit(installation, db).auditor, installation.settings.watch_coin_units
    return Answers(db, auditor, installation.chain, transactions, own, coin_units)


class _EvidenceFile:
    """Receipts of a file, read again when it changes. Errors: `NotFound`, `MalformedBatch`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed_at = 0
        self._receipts: tuple[SignedReceipt, ...] = ()
        self()

    def __call__(self) -> tuple[SignedReceipt, ...]:
        if not self._path.is_file():
            raise NotFound(f"there is no file {self._path}", param="evidence")
        changed_at = self._path.stat().st_mtime_ns
        if changed_at != self._changed_at:
            _, self._receipts = decode(self._path.read_bytes())
            self._changed_at = changed_at
        return self._receipts


def _open_database(settings: Settings, deployment: str) -> Database:
    """Open the watcher's database of this deployment; those of other deployments and of later versions are
    deleted, because they can be indexed again.
    """
    from backend.db.migrate import upgrade
    from backend.db.unit_of_work import Database

    folder, name = settings.home / "watch", deployment[2:18]
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.db*"):
        if not stale.name.startswith(name):
            stale.unlink(missing_ok=True)
    db = Database.open(f"sqlite:///{folder / name}.db")
    try:
        upgrade(db.engine)
    except Conflict:  # tables of a later version, before an upgrade was taken back
        db.close()
        for stale in folder.glob(f"{name}.db*"):
            stale.unlink(missing_ok=True)
        db = Database.open(f"sqlite:///{folder / name}.db")
        upgrade(db.engine)
    return db
