"""The local market: what must be true of chain, contracts and database before the services start.

Like `bootstrap`, a composition root: it may reach every adapter.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.domain.chain import ChainReplaced
from backend.domain.errors import Conflict, NotFound
from backend.installation.base_model import offers_of, prepare_offer
from backend.installation.installation import Installation

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.ids import Account
    from backend.installation.installation import BaseFacts
    from backend.settings import Settings

BASE_PRICES = 200_000, 400_000
"""Token units per million prompt tokens, and completion tokens: 0.20 and 0.40 test dollars."""
CHAIN_DATA = (
    "deployment.json",
    "loraledger.db",
    "loraledger.db-wal",
    "loraledger.db-shm",
    "broker",
    "keys",
    "training",
    "uploads",
)
"""What belongs to one chain and is set aside with it. Blocks stay: content is true on any chain."""
READY_LINE = b"Started HTTP"
ROLES = (
    "deployer, guardian, treasury",
    "operator, curator",
    "receipt key",
    *(f"user {n}" for n in range(1, 7)),
    "watcher",
)


@dataclass(frozen=True, slots=True)
class WellKnownAccount:
    """An account of the development mnemonic. Everybody knows its key; only ever on chain 31337."""

    index: int
    role: str
    account: Account
    private_key: str


def well_known_accounts() -> list[WellKnownAccount]:
    from backend.chain.keys import local_account, local_private_key

    return [
        WellKnownAccount(index, role, local_account(index).account, local_private_key(index))
        for index, role in enumerate(ROLES)
    ]


def chain_command(port: int) -> list[str]:
    from backend.chain.local_node import command

    return command(port)


def engine_command(settings: Settings, *, ends_with_stdin: bool = True) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of the engine process."""
    from backend.engine.process import EngineProcess

    process = EngineProcess(
        socket_path=settings.engine_socket,
        model=settings.base_model or None,
        model_cache=settings.model_cache,
        num_threads=settings.engine_threads,
        options={
            "dtype": settings.engine_dtype,
            "quantization": settings.engine_quantization,
            "log_format": settings.log_format,
        },
        ends_with_stdin=ends_with_stdin,
    )
    return process.arguments(), process.environment()


def free_port(preferred: int, patience_seconds: float = 0) -> int:
    """`preferred` if nobody listens there, or stops to in time; else any free port of loopback."""
    until = time.monotonic() + patience_seconds
    while not _is_free(preferred) and time.monotonic() < until:
        time.sleep(0.1)
    if _is_free(preferred):
        return preferred
    from backend.chain.local_node import free_port as any_free_port

    return any_free_port()


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def chain_says_ready(log: Path) -> bool:
    """By the node's own word: somebody else's node on our port would answer calls just as well."""
    return log.is_file() and READY_LINE in log.read_bytes()[:4096]


def prepare_chain(settings: Settings) -> Path | None:
    """Contracts on the chain behind the RPC, and a migrated database. Safe to kill and call again.

    Returns the folder in which a replaced chain's data was set aside, None where nothing was.
    """
    aside = None if _is_deployed(settings) else _start_afresh(settings)
    installation = Installation(settings)
    try:
        installation.prepare_database()
    finally:
        installation.close()
    return aside


def prepare_base(settings: Settings) -> BaseFacts:
    """Note the base model's digest, and queue the registrations of its record and of training's, if this
    market does not know them yet.
    """
    installation = Installation(settings)
    try:
        offer = prepare_offer(installation, BASE_PRICES)
        offers_of(installation).register(offer.records)
    finally:
        installation.close()
    return offer.facts


def _is_deployed(settings: Settings) -> bool:
    installation = Installation(settings)
    try:
        installation.chain.check()
    except (NotFound, ChainReplaced):
        return False
    else:
        return True
    finally:
        installation.close()


def _start_afresh(settings: Settings) -> Path | None:
    """Errors: `Conflict` where the database is not a file of ours that could be set aside."""
    from backend.deployment.local import deploy_local, save

    if settings.database_url and settings.deployment_file.is_file():
        raise Conflict(
            f"the chain at {settings.rpc_url} is another one than before, and the database of "
            "LORALEDGER_DATABASE_URL holds the old one's data: name an empty database, and remove "
            f"{settings.deployment_file}"
        )
    aside = _set_aside(settings)
    save(deploy_local(settings.rpc_url), settings.deployment_file)
    return aside


def _set_aside(settings: Settings) -> Path | None:
    present = [settings.home / name for name in CHAIN_DATA if (settings.home / name).exists()]
    if not present:
        return None
    aside = settings.home / "set-aside" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    aside.mkdir(parents=True)
    # The deployment file goes first: without it, what a kill leaves behind is set aside by the next start.
    for path in present:
        shutil.move(path, aside / path.name)
    return aside


def main_command(*arguments: str) -> list[str]:
    """Arguments that run the `loraledger` command in another process of the same environment."""
    return [sys.executable, "-m", "backend.cli.main", *arguments]


def child_environment(settings: Settings, rpc_url: str, api_port: int) -> dict[str, str]:
    """What the services must be told beside our own environment."""
    return {
        "LORALEDGER_HOME": str(settings.home.resolve()),
        "LORALEDGER_MODEL_CACHE": str(settings.model_cache.resolve()),
        "LORALEDGER_RPC_URL": rpc_url,
        "LORALEDGER_API_PORT": str(api_port),
        "PYTHONUNBUFFERED": "1",
        # Everything shares the cores: threads that wait must sleep instead of spinning.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
