"""Prepares the local network: chain, contracts, database and base model, before its services start."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from backend.domain.chain import ChainReplaced
from backend.domain.deployment import LOCAL_CHAIN_ID
from backend.domain.errors import Conflict, NotFound
from backend.installation.installation import Installation
from backend.loopback import free_port, is_free

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.domain.ids import Account
    from backend.installation.base_model import BaseModelInfo
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
"""Data of one chain, archived when the chain is replaced. Blocks stay, as content is valid on any chain."""
READY_LINE = b"Started HTTP"
ROLES = (
    "deployer, guardian, treasury",
    "operator, curator",
    "receipt key",
    *("user",) * 6,
    "watcher",
)


@dataclass(frozen=True, slots=True)
class WellKnownAccount:
    """An account of the development mnemonic. Its key is public, so it is used on chain 31337 only."""

    index: int
    role: str
    account: Account
    private_key: str


def well_known_accounts() -> list[WellKnownAccount]:
    from backend.chain.keys import local_account
    from backend.chain.local_keys import local_private_key

    return [
        WellKnownAccount(index, role, local_account(index).account, local_private_key(index))
        for index, role in enumerate(ROLES)
    ]


def chain_command(settings: Settings, port: int) -> list[str]:
    from backend.chain.local_node import command

    return command(port, settings.home / "run" / "hardhat")


def engine_command(
    settings: Settings, replica: int = 1, *, ends_with_stdin: bool = True
) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of an engine process. `replica`: its number. Errors: `NotFound`."""
    from backend.engine.process import EngineProcess

    base = next((each for each in settings.served if replica in each.sockets), None)
    if base is None:
        count = sum(len(each.sockets) for each in settings.served)
        raise NotFound(f"no own engine {replica}: the settings name {count}", param="replica")
    process = EngineProcess(
        socket_path=base.sockets[replica],
        model=base.model or None,
        model_cache=settings.model_cache,
        num_threads=settings.engine_threads,
        options={
            "dtype": settings.engine_dtype,
            "quantization": settings.engine_quantization,
            "log_format": settings.log_format,
            "stall_seconds": settings.engine_stall_seconds,
        },
        ends_with_stdin=ends_with_stdin,
    )
    return process.arguments(), process.environment()


def engine_silence(socket_path: Path) -> Callable[[], float]:
    """Seconds for which an engine process has not responded, for its supervisor."""
    from inference.server.heartbeat import Heartbeat

    return Heartbeat(socket_path).silence


def gradients_command(
    settings: Settings, number: int = 1, *, ends_with_stdin: bool = True
) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of the process that computes gradients of one base model. `number`: the
    base's place in the settings, from 1. Errors: `NotFound`.
    """
    from backend.engine.process import EngineProcess

    bases = settings.served
    if number > len(bases):
        raise NotFound(f"no base model {number}: the settings name {len(bases)}", param="base")
    base = bases[number - 1]
    process = EngineProcess(
        socket_path=base.gradients_socket,
        model=base.model or None,
        model_cache=settings.model_cache,
        num_threads=settings.trainer_threads,
        options={"log_format": settings.log_format},
        ends_with_stdin=ends_with_stdin,
        module="workers.gradients",
    )
    return process.arguments(), process.environment()


def choose_port(preferred: int, wait_seconds: float = 0) -> int:
    """`preferred` if it is free or becomes free within `wait_seconds`, else any free port of loopback."""
    deadline = time.monotonic() + wait_seconds
    while not is_free(preferred) and time.monotonic() < deadline:
        time.sleep(0.1)
    return preferred if is_free(preferred) else free_port()


def is_chain_ready(log: Path) -> bool:
    """Whether the node logged that it is listening. A request to the port could reach another node."""
    return log.is_file() and READY_LINE in log.read_bytes()[:4096]


def prepare_chain(settings: Settings) -> Path | None:
    """Deploy the contracts if necessary, and prepare the database. Safe to interrupt and call again.

    Returns the folder that the data of a replaced chain was moved to, or None.
    """
    archive = None if _is_deployed(settings) else _redeploy(settings)
    installation = Installation(settings)
    try:
        installation.prepare_database()
    finally:
        installation.close()
    return archive


def prepare_bases(settings: Settings) -> list[BaseModelInfo]:
    """Prepare the base models, and queue the registrations of their records and of training's, if missing."""
    installation = Installation(settings)
    try:
        offers = installation.prepare_offers(BASE_PRICES)
        installation.offers.set_first_floor([offer.base for offer in offers])
        installation.offers.register([record for offer in offers for record in offer.records])
    finally:
        installation.close()
    return [offer.info for offer in offers]


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


def _redeploy(settings: Settings) -> Path | None:
    """Archive the data of the previous chain and deploy to the new one; returns the archive's folder.

    Errors: `Conflict` if the database is not a file in `home`, so that it cannot be archived, and if `home`
    is that of another market.
    """
    from backend.deployment.deployment_file import load_deployment, save_deployment
    from backend.deployment.local import deploy_local

    if settings.deployment_file.is_file():
        chain_id = load_deployment(settings.deployment_file).chain_id
        if chain_id != LOCAL_CHAIN_ID:
            raise Conflict(
                f"{settings.home} has the keys and data of a market on chain {chain_id}: set LORALEDGER_HOME "
                "to another folder for a local network"
            )
    if settings.database_url and settings.deployment_file.is_file():
        raise Conflict(
            f"the chain at {settings.rpc_url} is a new one, but the database of LORALEDGER_DATABASE_URL "
            "contains data of the previous chain: set it to an empty database, and remove "
            f"{settings.deployment_file}"
        )
    archive = _archive(settings)
    save_deployment(deploy_local(settings.rpc_url), settings.deployment_file)
    return archive


def _archive(settings: Settings) -> Path | None:
    present = [settings.home / name for name in CHAIN_DATA if (settings.home / name).exists()]
    if not present:
        return None
    archive = settings.home / "archive" / datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    archive.mkdir(parents=True)
    # The deployment file is moved first: if this is interrupted, the next start archives the rest.
    for path in present:
        shutil.move(path, archive / path.name)
    return archive


def main_command(*arguments: str) -> list[str]:
    """Command line of `loraledger` in the same Python environment."""
    return [sys.executable, "-m", "backend.cli.main", *arguments]


def child_environment(settings: Settings, rpc_url: str, api_port: int) -> dict[str, str]:
    """Environment variables of the services, in addition to those of this process."""
    return {
        "LORALEDGER_HOME": str(settings.home.resolve()),
        "LORALEDGER_MODEL_CACHE": str(settings.model_cache.resolve()),
        "LORALEDGER_RPC_URL": rpc_url,
        "LORALEDGER_API_PORT": str(api_port),
        "PYTHONUNBUFFERED": "1",
        # All processes share the cores: idle OpenMP threads must sleep instead of spinning.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
