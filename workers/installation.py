"""Wires the worker and the relay process of an installation."""

from __future__ import annotations

from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.installation.extras import require_extra
from workers.app import QUEUE_BY_TASK, QUEUES, create_app, work
from workers.relay import Relay, outbox_sender

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery import Celery

    from backend.installation.installation import Installation
    from backend.settings import Settings
    from inference.config import DType
    from workers.steps import Steps
    from workers.webhooks import WebhookRelay


class Workers:
    """The worker and the relay of an installation."""

    def __init__(self, installation: Installation) -> None:
        self._installation = installation
        self._training_home = installation.settings.home / "training"
        """One folder for each job."""

    @cached_property
    def app(self) -> Celery:
        settings = self._installation.settings
        if settings.broker_url.startswith("redis"):
            require_extra("redis", "LORALEDGER_BROKER_URL")
        return create_app(settings.home, settings.broker_url)

    @property
    def _arithmetic(self) -> DType:
        stated = self._installation.settings.index_arithmetic
        is_local = self._installation.deployment.chain_id == LOCAL_CHAIN_ID
        return stated or ("bfloat16" if is_local else "float32")

    @property
    def _folder_sweeps(self) -> Sequence[Callable[[], object]]:
        """They remove the folders of finished jobs and imports from this machine."""
        from workers.training.folders import sweep_folders

        jobs = (self._installation.training, self._installation.imported_adapters)
        return [partial(sweep_folders, self._training_home, each) for each in jobs]

    @cached_property
    def steps(self) -> Steps:
        from backend.services.train.parents import Parents
        from workers.inspection import InspectionProcess
        from workers.screening import JobScreening
        from workers.steps import Steps, TrainerOptions

        installation = self._installation
        settings, infos = installation.settings, installation.base_models
        options = TrainerOptions(
            home=self._training_home,
            transfers=installation.transfers,
            model_cache=settings.model_cache,
            num_threads=settings.trainer_threads,
            base_folders={digest: info.folder for digest, info in infos.items()},
            arithmetic=self._arithmetic,
            fetch_parent=Parents(installation.database, installation.adapter_folders).fetch,
            sweeps=self._folder_sweeps,  # the relay may be on another machine
        )
        screening = JobScreening(
            installation.screening,
            installation.adapter_folders,
            {
                digest: InspectionProcess(Path(info.folder), settings.trainer_threads)
                for digest, info in infos.items()
            },
        )
        return Steps(
            installation.leases,
            installation.datanets.fetching_snapshots,
            screening,
            installation.publication,
            options,
        )

    @cached_property
    def relay(self) -> Relay:
        """Delivers the outbox. Its sweeps requeue jobs with expired leases, describe new versions for
        the catalogue, read their published answers for the check of uploads, record registrations, delete
        adapters that no version names, and remove the folders of finished jobs.
        """
        installation = self._installation
        sweeps: Sequence[Callable[[], object]] = (
            installation.leases.requeue_expired,
            # Before registrations are recorded, for which commands wait: then the catalogue has the version.
            installation.descriptions.refresh,
            self._read_published_answers,
            installation.publication.record_registrations,
            installation.publication.forget_unneeded,
            *self._folder_sweeps,
        )
        return Relay(installation.database, outbox_sender(self.app), sweeps)

    def _read_published_answers(self) -> None:
        if all(base.file.is_file() for base in self._installation.settings.served):  # else no tokenizer yet
            self._installation.datanets.published_answers.refresh()

    @cached_property
    def webhooks(self) -> WebhookRelay:
        from workers.webhooks import WebhookRelay

        installation = self._installation
        return WebhookRelay(installation.webhook_deliveries, (installation.balance_events.sweep,))


def run_worker(settings: Settings, queues: Sequence[str] = QUEUES) -> None:
    """Run a worker of this installation in this process until SIGTERM or Ctrl-C."""
    from backend.installation.installation import Installation

    installation = Installation(settings)
    try:
        installation.check_database()
        has_prices = any(base.training_price for base in settings.served)
        if has_prices and QUEUE_BY_TASK["training.publish"] in queues:
            _ = installation.receipt_key  # fail now if the key is missing, instead of after a job was trained
        workers = Workers(installation)
        work(workers.app, workers.steps, queues)
    finally:
        installation.close()
