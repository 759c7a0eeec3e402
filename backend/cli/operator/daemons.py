"""Long-running processes of an installation, one command each. `loraledger up` starts all of them."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import DomainError, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from backend.installation.installation import Installation
    from backend.ports.storage import BlobStore
    from backend.services.settle.settler import Settler

FINISH_SECONDS = 10
"""Time that requests have to end when the API stops. Then answers are aborted and charged up to there."""
SETTLE_SECONDS = 0.5
UPLOADS_SECONDS, CLEANUP_SECONDS, GARBAGE_SECONDS = 1.0, 60.0, 3600.0
IDLE_RESTS, MAX_REST_SECONDS = 9, 60.0
"""Times as long as it took to find nothing due, the settler rests: receipts that are not worth their gas wait
for a day, and it takes time to add up many.
"""
log = logging.getLogger("loraledger")


def register(app: typer.Typer) -> None:
    _register(app, serve, relay, index, send, settle, ipfs)


def register_with_torch(app: typer.Typer) -> None:
    """The processes that load a model."""
    _register(app, engine, gradients, worker)


def _register(app: typer.Typer, *commands: Callable[..., None]) -> None:
    for command in commands:
        app.command(rich_help_panel="Parts of an installation")(command)


def serve() -> None:
    """Serve the REST API."""
    import uvicorn

    from backend.settings import load_settings

    settings = load_settings()
    uvicorn.run(
        "backend.app:create",
        factory=True,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=FINISH_SECONDS,
    )


def engine(
    options: Annotated[
        list[str] | None, typer.Argument(help="Options of `python -m inference.server`, after `--`.")
    ] = None,
    *,
    replica: Annotated[
        int, typer.Option(min=1, help="Number of the engine; numbers count over all base models.")
    ] = 1,
) -> None:
    """Run the engine that all API processes of an installation share, or one of several."""
    from backend.installation import local_network as local
    from backend.settings import load_settings

    argv, environment = local.engine_command(load_settings(), replica, ends_with_stdin=False)
    os.execvpe(argv[0], [*argv, *(options or ())], environment)  # noqa: S606 - keeps the process id that a supervisor watches


def gradients(
    *,
    base: Annotated[
        int, typer.Option(min=1, help="Place of the base model in LORALEDGER_BASES, from 1.")
    ] = 1,
) -> None:
    """Attribute answers by gradients, for LORALEDGER_GRADIENT_SECONDS and LORALEDGER_LIVE_AGREEMENT_PPM."""
    from backend.installation import local_network as local
    from backend.settings import load_settings

    argv, environment = local.gradients_command(load_settings(), base, ends_with_stdin=False)
    os.execvpe(argv[0], argv, environment)  # noqa: S606 - keeps the process id that a supervisor watches


def worker(
    queue: Annotated[
        list[str] | None,
        typer.Option(help="Queue to work on: train, publish or import; may be repeated. Default: all."),
    ] = None,
) -> None:
    """Run training and publishing tasks."""
    from backend.installation.telemetry import setup_telemetry
    from backend.settings import load_settings

    settings = load_settings()
    setup_telemetry(settings, "worker")
    from workers.app import QUEUES
    from workers.installation import run_worker

    unknown = sorted(set(queue or ()) - set(QUEUES))
    if unknown:
        raise InvalidInput(
            f"unknown queue: {', '.join(unknown)}; known queues: {', '.join(QUEUES)}", param="queue"
        )
    run_worker(settings, tuple(queue or QUEUES))


def ipfs(
    port: Annotated[
        int, typer.Option(help="Port on the loopback interface; 0 selects a free one.", min=0, max=65535)
    ] = 5001,
) -> None:
    """Serve the embedded block store as a Kubo RPC API on loopback, for IPFS tools."""
    import uvicorn

    from backend.installation.installation import Installation
    from backend.settings import load_settings

    app, listener = Installation(load_settings()).kubo_rpc(port)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/api/v0", flush=True)
    uvicorn.Server(uvicorn.Config(app, access_log=False)).run(sockets=[listener])


def relay() -> None:
    """Deliver the outbox to the workers and webhooks to their endpoints, and offer jobs again whose lease has
    expired.
    """
    _run("relay", _relay)


def index() -> None:
    """Index the chain into the database."""
    _run("indexer", _index)


def send() -> None:
    """Sign, send and confirm this installation's transactions."""
    _run("sender", _send)


def settle() -> None:
    """Commit and finalise batches of receipts; register pending uploads on the chain."""
    _run("settler", _settle)


def _index(installation: Installation, stop: threading.Event) -> None:
    """Creates the database's tables, as the sender does: a fresh installation starts with these two."""
    indexer = installation.indexer  # fails before the database is created if the home has no deployment
    installation.prepare_database()
    indexer.run(stop)


def _send(installation: Installation, stop: threading.Event) -> None:
    sender = installation.sender
    installation.prepare_database()
    sender.run(stop)


def _relay(installation: Installation, stop: threading.Event) -> None:
    from workers.installation import Workers

    installation.check_database()
    workers = Workers(installation)
    relay, webhooks = workers.relay, workers.webhooks
    thread = threading.Thread(target=webhooks.run, args=(stop,), name="webhooks")
    thread.start()
    try:
        relay.run(stop)
    finally:
        stop.set()
        thread.join()


def _settle(installation: Installation, stop: threading.Event) -> None:
    from workers.sweeps import at_most_every

    installation.check_database()
    settler, datanets = installation.settler, installation.datanets
    sweeps = (
        datanets.curation.advance,
        installation.transfers.sweep,
        at_most_every(CLEANUP_SECONDS, datanets.withdrawn_content.sweep),
        at_most_every(CLEANUP_SECONDS, datanets.folders.sweep),
    )
    # A daemon thread: nothing waits for a collection, which the next start repeats.
    threading.Thread(
        target=_delete_forgotten, args=(installation.blobs, stop), name="garbage", daemon=True
    ).start()
    with ThreadPoolExecutor(1, "uploads") as pool:
        uploads = pool.submit(_advance_uploads, sweeps, stop)
        try:
            _settle_batches(settler, stop)
        finally:
            stop.set()
    uploads.result()


def _settle_batches(settler: Settler, stop: threading.Event) -> None:
    from backend.services.settle.settler import Step

    last_status = ""
    while not stop.is_set():
        began, rest = time.monotonic(), SETTLE_SECONDS
        try:
            progress = settler.run_once()
            if progress.step is Step.IDLE:
                rest = max(rest, min(IDLE_RESTS * (time.monotonic() - began), MAX_REST_SECONDS))
            status = " ".join(filter(None, [progress.step, progress.reason, *progress.skipped.values()]))
        except DomainError as error:
            status = f"waits: {error}"
        if status != last_status:  # logged on change only: the loop runs twice a second
            log.info("settler %s", status)
            last_status = status
        stop.wait(rest)


def _advance_uploads(sweeps: Iterable[Callable[[], object]], stop: threading.Event) -> None:
    """In a thread of its own: the rows of one upload take minutes to delete, and batches have deadlines."""
    last_status = "advance"
    try:
        while not stop.is_set():
            status = "; ".join(_errors_of(sweeps)) or "advance"
            if status != last_status:
                log.info("uploads %s", status)
                last_status = status
            stop.wait(UPLOADS_SECONDS)
    finally:
        stop.set()  # what ends this thread ends the process


def _delete_forgotten(store: BlobStore, stop: threading.Event) -> None:
    """In a thread of its own: an IPFS daemon may look at its blocks for an hour."""
    from workers.sweeps import run_sweeps

    while not stop.is_set():
        run_sweeps([store.delete_forgotten])
        stop.wait(GARBAGE_SECONDS)


def _errors_of(tasks: Iterable[Callable[[], object]]) -> list[str]:
    """Run tasks that must not keep each other from their work."""
    errors = []
    for task in tasks:
        try:
            task()
        except DomainError as error:
            errors.append(str(error))
    return errors


def _run(name: str, body: Callable[[Installation, threading.Event], None]) -> None:
    """Run `body` until SIGTERM or Ctrl-C. Interrupted work is resumed by the next start."""
    from backend.installation.telemetry import setup_telemetry
    from backend.settings import load_settings

    settings = load_settings()
    setup_telemetry(settings, name)
    from backend.installation.installation import Installation

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    installation = Installation(settings)
    log.info("%s started", name)
    try:
        body(installation, stop)
    finally:
        installation.close()
        log.info("%s ended", name)
