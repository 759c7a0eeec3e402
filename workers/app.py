"""The Celery application. Messages only wake workers; the database has the state and leases of jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from backend.domain.training import Step
from telemetry import traces

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from pathlib import Path

    from celery import Celery, Task

    from workers.steps import Steps

QUEUE_BY_TASK = {
    "training.validate": "publish",
    "training.train": "train",
    "training.publish": "publish",
    "import.validate": "import",
    "import.publish": "import",
}
"""Task names are outbox topics. Training has its own queue, so that with a second worker validation and
publication need not wait for it. So have imports, which are free: a worker takes from its queues in turn, and
many imports delay a job that is paid for by one of them.
"""
QUEUES = tuple(sorted(set(QUEUE_BY_TASK.values())))
POLL_SECONDS = 0.5


def create_app(home: Path, broker_url: str = "") -> Celery:
    """Configure Celery, without tasks. Without a broker URL, messages are files below `home`."""
    from celery import Celery
    from kombu.entity import Queue

    transport: dict[str, Any] = {}
    if not broker_url:
        broker_url = "filesystem://localhost"  # without a host, kombu warns and uses localhost
        folders = _folders(home / "broker")
        transport = {"broker_transport": "workers.broker:Transport", "broker_transport_options": folders}
    app = Celery("loraledger", broker=broker_url, set_as_current=False)
    app.conf.update(
        **transport,
        broker_connection_retry_on_startup=True,
        broker_channel_error_retry=True,  # RabbitMQ closes the channel of a worker that is busy for too long
        task_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        task_queues=[Queue(name) for name in QUEUES],  # type: ignore[no-untyped-call]
        task_create_missing_queues=False,
        task_routes={task: {"queue": queue} for task, queue in QUEUE_BY_TASK.items()},
        worker_pool="solo",  # a forked torch hangs; training is a child process anyway
        broker_heartbeat=0,  # none is sent while a task runs, and RabbitMQ would close the connection
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
    )
    return app


def add_tasks(app: Celery, steps: Steps, queues: Collection[str] = ()) -> None:
    """Add an idempotent task for each topic: messages, which have a job's id, may be delivered twice.
    `queues`: those that this worker takes messages from.
    """
    for name in QUEUE_BY_TASK:

        def task(self: Task, job_id: str, name: str = name) -> None:
            asked_by = self.request.get(traces.TRACEPARENT)
            with traces.span(f"process {name}", asked_by, job__id=job_id):
                run_task(steps, name, job_id, queues)

        app.task(task, name=name, bind=True)


def run_task(steps: Steps, task: str, job_id: str, queues: Collection[str]) -> None:
    """Run a step. A worker that publishes takes the results of its own home too: before a step that may take
    hours, and after each, because a message may be about the result of another home.
    """
    kind, _, name = task.partition(".")
    step, publication = Step(name), f"{kind}.{Step.PUBLISH}"
    publishes = QUEUE_BY_TASK[publication] in queues
    if publishes and step is not Step.PUBLISH:
        steps.publish_results(are_imported=kind == "import")
    steps.run(step, job_id)
    if publishes:
        steps.publish_results(are_imported=kind == "import")


def work(app: Celery, steps: Steps, queues: Sequence[str] = QUEUES) -> None:
    """Work until SIGTERM or Ctrl-C. Running training is released and resumed by another worker. Raises
    `SystemExit` with a status of 1 after an error.
    """
    from celery.signals import worker_shutting_down

    def stop(**_: Any) -> None:
        steps.stop()

    add_tasks(app, steps, queues)
    worker_shutting_down.connect(stop)
    worker = app.Worker(
        queues=list(queues),
        quiet=True,
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        # The event loop drops an error of the channel that it reads right after its start. The worker would
        # then wait for messages of a consumer that the broker no longer has.
        use_eventloop=False,
    )
    worker.start()
    raise SystemExit(worker.exitcode)


def _folders(root: Path) -> dict[str, Any]:
    messages, control = root / "messages", root / "control"
    for folder in (messages, control):
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(messages),
        "data_folder_out": str(messages),
        "control_folder": str(control),
        "polling_interval": POLL_SECONDS,
    }
