"""Measures one engine and one database behind two APIs in turn, with and without receipts.

The API without receipts reserves and signs nothing (`bare`). Without attribution, the same weights are
requested by a version without snapshots, so that the engine captures no probe. With it, answers are
attributed by the default method, a map of the answer's vectors.
"""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from backend.domain.attribution import (
    DISTILLED_ERROR_METHOD,
    DISTILLED_METHOD,
    INDEX_FILE,
    INDEX_METADATA,
)
from backend.domain.content import cid_of
from backend.domain.hashing import version_id
from backend.domain.ids import Hash32
from backend.engine.process import EngineProcess
from backend.installation.installation import Installation
from backend.loopback import free_port
from backend.services.answers.billing import UNATTRIBUTED
from benchmarks.api import chain_events, market
from benchmarks.engine.adapters import make_adapters
from benchmarks.ledger.load import Load, Question, run_load
from benchmarks.processes import await_listeners, running, variables
from inference.lora.files import adapter_digest
from inference.model.families import read_architecture

if TYPE_CHECKING:
    from collections.abc import Iterator

    from backend.domain.receipt import VersionRecord
    from benchmarks.api.market import SeededMarket

NUM_CONTRIBUTORS = 64
METHOD = DISTILLED_METHOD
"""Of the receipts with attribution."""
_MAPS = ("distilled", "distilled_error")
NONE, RECEIPTS, ALL = "neither", "receipts", "receipts and attribution"


@dataclass(frozen=True, slots=True)
class Size:
    """Size of one run."""

    num_clients: int = 16
    num_answers: int = 160
    num_tokens: int = 64
    repeats: int = 5


def measure(folder: Path, model: Path, size: Size, num_threads: int = 2) -> dict[str, list[Load]]:
    """Alternating runs by name. Errors: AssertionError if an answer is cut off, or its receipt is missing or
    has another method.
    """
    home = folder / "home"
    market.create_home(home)
    installation = Installation(market.build_settings(home))
    plain, attributed = _versions(folder, model)
    seeded = market.seed(installation, NUM_CONTRIBUTORS, attributed, plain)
    _install_adapter(folder, model, home, attributed)
    runs: dict[str, list[Load]] = {NONE: [], RECEIPTS: [], ALL: []}
    models = {NONE: version_id(plain), RECEIPTS: version_id(plain), ALL: version_id(attributed)}
    try:
        with _running(installation, model, num_threads) as (ports, pids):
            for number in range(size.repeats + 1):
                names = list(runs) if number % 2 else list(reversed(runs))
                for name in names:
                    api = "bare" if name == NONE else "serve"
                    first = (number * len(runs) + names.index(name)) * size.num_answers
                    questions = [
                        Question(models[name], first + i, size.num_tokens) for i in range(size.num_answers)
                    ]
                    payers = seeded.payers[: size.num_clients]
                    load = run_load(ports[api], (pids[api], pids["engine"]), payers, questions)
                    if number:  # the first repeat is a warm-up
                        runs[name].append(load)
        _check(installation, seeded, size.num_answers * (size.repeats + 1))
    finally:
        installation.close()
    return runs


def _versions(folder: Path, model: Path) -> tuple[VersionRecord, VersionRecord]:
    """Two versions of the same weights: without and with the snapshot of their contributors."""
    (adapter,) = make_adapters(folder / "adapters", model, 1)
    digest = Hash32("0x" + adapter_digest(adapter))
    attributed = replace(chain_events.version_record("attributed", NUM_CONTRIBUTORS), adapter_digest=digest)
    return replace(attributed, name="plain", snapshots=()), attributed


def _install_adapter(folder: Path, model: Path, home: Path, version: VersionRecord) -> None:
    """Copy the adapter's folder to where the API loads it from, with an index of random vectors and maps."""
    (adapter,) = make_adapters(folder / "adapters", model, 1)
    target = home / "adapters" / cid_of(version.cid_digest)
    shutil.copytree(adapter, target, dirs_exist_ok=True)
    source, width = np.random.default_rng(1), read_architecture(model).hidden_size
    vectors = source.standard_normal((NUM_CONTRIBUTORS, width), dtype=np.float32)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    tensors: dict[str, Any] = {
        "positions": np.arange(NUM_CONTRIBUTORS, dtype=np.int64),
        "rows": np.ones(NUM_CONTRIBUTORS, dtype=np.int64),
        "hidden.vectors": unit,
        "hidden.centre": np.zeros(width, dtype=np.float32),
        "error.vectors": unit,
        "distilled.weights": np.concatenate((unit, unit), axis=1),
        "distilled_error.weights": unit,
    }
    tensors |= {f"{name}.bias": np.zeros(NUM_CONTRIBUTORS, dtype=np.float32) for name in _MAPS}
    methods = f"{DISTILLED_METHOD} {DISTILLED_ERROR_METHOD}"
    save_file(tensors, target / INDEX_FILE, {**INDEX_METADATA, "methods": methods})


@contextmanager
def _running(
    installation: Installation, model: Path, num_threads: int
) -> Iterator[tuple[dict[str, int], dict[str, int]]]:
    """Run engine and APIs. Yields the ports of the APIs and all process ids, by name."""
    settings = installation.settings
    engine = EngineProcess(settings.engine_socket, model, num_threads=num_threads, ends_with_stdin=False)
    settings.engine_socket.parent.mkdir(parents=True, exist_ok=True)
    ports = {"serve": free_port(), "bare": free_port()}
    python = [sys.executable, "-m"]
    commands = {
        "engine": engine.arguments(),
        "serve": [*python, "backend.cli.main", "serve"],
        "bare": [*python, "uvicorn", "--factory", "benchmarks.ledger.bare:create", "--no-access-log"],
    }
    commands["bare"] += ["--port", str(ports["bare"])]
    options = {"home": settings.home, "max_lag_seconds": settings.max_lag_seconds, "api_port": ports["serve"]}
    options |= {"address_requests_per_minute": 0}
    with ExitStack() as stack, (settings.home / "log").open("wb") as log:
        started = {}
        for name, command in commands.items():
            environment = engine.environment() if name == "engine" else variables(options)
            started[name] = stack.enter_context(running(command, environment, log))
        await_listeners(started.values(), [*ports.values(), settings.engine_socket], Path(log.name))
        yield ports, {name: process.pid for name, process in started.items()}


def _check(installation: Installation, seeded: SeededMarket, num_answers: int) -> None:
    """Check that exactly the requests to the API with receipts have one, by the method that is measured.
    `num_answers`: with attribution, and as many without. Errors: AssertionError.
    """
    with installation.database.read() as tx:
        found = Counter(
            receipt.signed.method
            for payer in seeded.payers
            for receipt in tx.receipts.page(payer.account, None, 10**9)
        )
    expected = {METHOD: num_answers, UNATTRIBUTED: num_answers}
    if found != expected:
        raise AssertionError(f"receipts by method are {dict(found)}, not {expected}")
