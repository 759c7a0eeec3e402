"""The long-running parts, one command each. `loraledger up` starts them all; operators may run them apart."""

from __future__ import annotations

import logging
import os
import signal
import threading
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import DomainError, InvalidInput
from backend.installation.telemetry import watch_process
from backend.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.installation.installation import Installation

SETTLE_SECONDS = 0.5
log = logging.getLogger("loraledger")


def register(app: typer.Typer) -> None:
    for command in (serve, engine, worker, relay, index, send, settle, ipfs):
        app.command(rich_help_panel="Parts of an installation")(command)


def serve() -> None:
    """Serve the REST API."""
    import uvicorn

    settings = load_settings()
    uvicorn.run(
        "backend.app:create",
        factory=True,
        host=settings.api_host,
        port=settings.api_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=10,
    )


def engine(
    options: Annotated[
        list[str] | None, typer.Argument(help="Options of `python -m inference.server`, after `--`.")
    ] = None,
) -> None:
    """Run the engine that all API processes of an installation share."""
    from backend.installation import local_network as local

    argv, environment = local.engine_command(load_settings(), ends_with_stdin=False)
    os.execvpe(argv[0], [*argv, *(options or ())], environment)  # noqa: S606  # our own interpreter; whoever watches us watches it


def worker(
    queue: Annotated[
        list[str] | None, typer.Option(help="Only this queue (train or publish); may be repeated.")
    ] = None,
) -> None:
    """Run training and publishing tasks."""
    settings = load_settings()
    watch_process(settings, "worker")
    from workers.app import QUEUES, run_worker

    unknown = sorted(set(queue or ()) - set(QUEUES))
    if unknown:
        raise InvalidInput(f"no queue {', '.join(unknown)}; there are {', '.join(QUEUES)}", param="queue")
    run_worker(settings, tuple(queue or QUEUES))


def ipfs(
    port: Annotated[int, typer.Option(help="Port of loopback; 0 for a free one.", min=0, max=65535)] = 5001,
) -> None:
    """Serve the block store as a Kubo RPC on loopback, for tools that speak it."""
    import uvicorn

    from backend.installation.installation import Installation

    app, listener = Installation(load_settings()).kubo_rpc(port)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/api/v0", flush=True)
    uvicorn.Server(uvicorn.Config(app, access_log=False)).run(sockets=[listener])


def relay() -> None:
    """Hand the outbox to the workers, and offer work whose lease has run out again."""
    _run("relay", _relay)


def index() -> None:
    """Follow the chain into the database."""
    _run("indexer", _index)


def send() -> None:
    """Sign, send and watch this installation's transactions."""
    _run("sender", _send)


def settle() -> None:
    """Batch receipts, commit and finalise; see to uploads on their way to the chain."""
    _run("settler", _settle)


def _index(installation: Installation, stop: threading.Event) -> None:
    """With tables in the database, as the sender: with these two a fresh installation begins."""
    indexer = installation.indexer  # a home without a market says so, and stays as it is
    installation.prepare_database()
    indexer.run(stop)


def _send(installation: Installation, stop: threading.Event) -> None:
    sender = installation.sender
    installation.prepare_database()
    sender.run(stop)


def _relay(installation: Installation, stop: threading.Event) -> None:
    from workers.relay import relay_of

    relay_of(installation).run(stop)


def _settle(installation: Installation, stop: threading.Event) -> None:
    settler, curation = installation.settler, installation.curation
    said = ""
    while not stop.is_set():
        try:
            curation.advance()
            installation.transfers.sweep()
            installation.copies.sweep()
            progress = settler.run_once()
            news = " ".join(filter(None, [progress.step, progress.reason, *progress.skipped.values()]))
        except DomainError as error:
            news = f"waits: {error}"
        if news != said:  # the same line twice a second would bury the one that matters
            log.info("settler %s", news)
            said = news
        stop.wait(SETTLE_SECONDS)


def _run(name: str, body: Callable[[Installation, threading.Event], None]) -> None:
    """Run `body` until SIGTERM or Ctrl-C; what it was doing is finished or taken up by the next start."""
    settings = load_settings()
    watch_process(settings, name)
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
