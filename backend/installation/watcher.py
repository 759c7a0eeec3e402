"""Wires the watcher onto a view of the chain of its own: nothing that it says or does rests on our database.

Like `bootstrap`, a composition root.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.batch_data import decode
from backend.domain.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from pathlib import Path

    from backend.db.unit_of_work import Database
    from backend.domain.ids import Account
    from backend.domain.receipt import SignedReceipt
    from backend.installation.installation import Installation
    from backend.ports.disputes import DisputeSender
    from backend.services.watch.answers import Answers
    from backend.services.watch.challenge import Challenge
    from backend.services.watch.watcher import Watcher
    from backend.settings import Settings

GWEI = 10**9
KEPT_BATCHES = 8
"""With their receipts, of those that are not right: each pass looks at them again."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a watcher is to do beside reporting."""

    can_challenge: bool = False
    can_answer: bool | None = None
    """For every operator whose batch data is here; None: for this installation's own, if its key is."""
    only: Account | None = None
    """The one operator to watch; None: all."""
    evidence: Path | None = None
    """File with receipts from elsewhere, in the form of batch data; read again whenever it changes."""


@contextmanager
def watching(installation: Installation, task: Task, stop: threading.Event) -> Iterator[Watcher]:
    """A watcher whose waits end once `stop` is set.

    Errors: `InvalidInput` or `NotFound` where it has something to send and there is no key for it.
    """
    from backend.chain.dispute_sender import node_errors
    from backend.chain.indexer import Indexer
    from backend.domain.judging.judge import judge
    from backend.services.watch.watcher import Watcher

    chain = installation.chain
    own = _own_operator(installation, task)
    dispute_sender = (
        _dispute_sender(installation, stop) if task.can_challenge or task.can_answer or own else None
    )
    db = _own_view(installation.settings, installation.deployment.block_hash)
    try:
        yield Watcher(
            follow=Indexer(chain, db.event_log, installation.deployment, confirmations=0).catch_up,
            guard=node_errors,
            db=db,
            chain=chain,
            cases=installation.cases(db, KEPT_BATCHES),
            judge=judge,
            challenge=_challenge(installation, dispute_sender)
            if dispute_sender and task.can_challenge
            else None,
            answers=_answers(installation, db, dispute_sender)
            if dispute_sender and (task.can_answer or own)
            else None,
            own=own,
            answers_for_all=bool(task.can_answer),
            only=task.only,
            evidence=tuple if task.evidence is None else _Evidence(task.evidence),
        )
    finally:
        db.close()


def _own_operator(installation: Installation, task: Task) -> Account | None:
    """Whom this installation answers for unasked."""
    if task.can_answer is False:
        return None
    try:
        return installation.operator.account
    except (InvalidInput, NotFound):
        return None


def _dispute_sender(installation: Installation, stop: threading.Event) -> DisputeSender:
    from backend.chain.dispute_sender import ChainDisputeSender, GasLimits

    settings = installation.settings
    limits = GasLimits(settings.watch_max_gas, settings.watch_max_gas_price * GWEI)
    return ChainDisputeSender(installation.chain, installation.watcher_key, limits, stop)


def _challenge(installation: Installation, dispute_sender: DisputeSender) -> Challenge:
    from backend.services.watch.challenge import Challenge

    return Challenge(installation.chain, dispute_sender, installation.settings.watch_max_bond)


def _answers(installation: Installation, db: Database, dispute_sender: DisputeSender) -> Answers:
    from backend.services.watch.answers import Answers

    return Answers(db, installation.auditor_of(db), installation.chain, dispute_sender)


class _Evidence:
    """Errors: `NotFound` without the file, `MalformedBatch` if it is something else."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed_at = 0
        self._receipts: tuple[SignedReceipt, ...] = ()
        self()

    def __call__(self) -> tuple[SignedReceipt, ...]:
        if not self._path.is_file():
            raise NotFound(f"no file {self._path}", param="evidence")
        changed_at = self._path.stat().st_mtime_ns
        if changed_at != self._changed_at:
            _, self._receipts = decode(self._path.read_bytes())
            self._changed_at = changed_at
        return self._receipts


def _own_view(settings: Settings, deployment: str) -> Database:
    """A file for this deployment; others' are dropped, as they can be read from their chains again."""
    from backend.db.migrate import upgrade
    from backend.db.unit_of_work import Database

    folder, name = settings.home / "watch", deployment[2:18]
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob("*.db*"):
        if not stale.name.startswith(name):
            stale.unlink(missing_ok=True)
    db = Database.open(f"sqlite:///{folder / name}.db")
    upgrade(db.engine)
    return db
