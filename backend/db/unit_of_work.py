"""The only place that commits. Repositories flush; this ends the transaction."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from backend.db.auth import AuthStore
from backend.db.batches import BatchStore
from backend.db.catalogue import CatalogueStore
from backend.db.chain import ChainStore
from backend.db.charges import ChargeStore
from backend.db.contribution_totals import ContributionTotalStore
from backend.db.contributions import UploadStore
from backend.db.denials import DenialStore
from backend.db.earnings import EarningStore
from backend.db.errors import database_errors
from backend.db.event_log import EventLog
from backend.db.figures import figures
from backend.db.idempotency import IdempotencyStore
from backend.db.inspections import InspectionStore
from backend.db.live_agreement import LiveAgreementStore
from backend.db.near_duplicates import SketchStore
from backend.db.outbox import OutboxStore
from backend.db.published_answers import PublishedAnswerStore
from backend.db.rate_counts import RateCountStore
from backend.db.serving import ChannelStore, ReceiptStore
from backend.db.session import SQLITE_BEGIN, open_engine
from backend.db.training import TrainingStore
from backend.db.transactions import TransactionStore
from backend.db.webhooks import WebhookStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from typing import Self

    from sqlalchemy import URL, Engine

    from backend.domain.figures import Figures
    from backend.domain.ids import Account
    from backend.ports.chain_view import ChainView


class UnitOfWork:
    """One database transaction and its repositories."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.auth = AuthStore(session)
        self.batches = BatchStore(session)
        self.catalogue = CatalogueStore(session)
        self.chain: ChainView = ChainStore(session)
        self.channels = ChannelStore(session)
        self.charges = ChargeStore(session)
        self.contribution_totals = ContributionTotalStore(session)
        self.contributions = UploadStore(session)
        self.denials = DenialStore(session)
        self.earnings = EarningStore(session)
        self.event_log = EventLog(session)
        self.idempotency = IdempotencyStore(session)
        self.inspections = InspectionStore(session)
        self.live_agreements = LiveAgreementStore(session)
        self.outbox = OutboxStore(session)
        self.published_answers = PublishedAnswerStore(session)
        self.rate_counts = RateCountStore(session)
        self.receipts = ReceiptStore(session)
        self.sketches = SketchStore(session)
        self.training = TrainingStore(session)
        self.transactions = TransactionStore(session)
        self.webhooks = WebhookStore(session)

    def figures(self, operator: Account, now: datetime) -> Figures:
        """Figures of this operator and of the whole installation at this time."""
        return figures(self.session, operator, now)


class Database:
    """Opens units of work. Keep slow work (RPC, files, models) outside: SQLite has one writer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @classmethod
    def open(cls, url: str | URL) -> Self:
        return cls(open_engine(url))

    @contextmanager
    def begin(self) -> Iterator[UnitOfWork]:
        """Commits when the block ends, rolls back when it raises.

        Errors: `DiskFull`, `DatabaseUnavailable`.
        """
        with (
            database_errors() as commits,
            Session(self.engine, expire_on_commit=False) as session,
            session.begin(),
        ):
            yield UnitOfWork(session)
            commits()

    @contextmanager
    def read(self) -> Iterator[UnitOfWork]:
        """One consistent view that waits for no writer. What it changes is rolled back.

        Errors: as of `begin`.
        """
        options = {SQLITE_BEGIN: "BEGIN", "isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        if self.engine.dialect.name == "sqlite":
            options = {SQLITE_BEGIN: "BEGIN"}
        engine = self.engine.execution_options(**options)
        with database_errors(), Session(engine, expire_on_commit=False) as session:
            yield UnitOfWork(session)

    @contextmanager
    def single_statements(self) -> Iterator[UnitOfWork]:
        """Each statement is a transaction of its own: one round trip, and no lock is held between statements.

        Errors: as of `begin`.
        """
        engine = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        with database_errors(), Session(engine) as session:
            yield UnitOfWork(session)

    @property
    def is_shared(self) -> bool:
        """Whether the processes of several machines may use it: PostgreSQL, not a file of SQLite."""
        return self.engine.dialect.name == "postgresql"

    @contextmanager
    def event_log(self) -> Iterator[EventLog]:
        """`begin`, for the indexer: its event log only."""
        with self.begin() as tx:
            yield tx.event_log

    @contextmanager
    def send_queue(self) -> Iterator[TransactionStore]:
        """`begin`, for the sender: its transactions only."""
        with self.begin() as tx:
            yield tx.transactions

    def close(self) -> None:
        self.engine.dispose()
