"""Readiness checks of an installation's parts, each with a remedy."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

from backend.disk.space import LEAST_FREE_BYTES
from backend.domain.errors import DiskFull, DomainError, Unavailable
from backend.domain.readiness import Fault
from backend.installation.resources import utc_now
from backend.services.channels.balance import check_fresh
from backend.services.single_flight import SingleFlight

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from backend.installation.resources import Resources
    from backend.settings import Base

log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")

ENGINE_SECONDS = 1.0
PART_SECONDS = 2.0
"""What a part may take, of which the engines wait together. Probes of `/ready` need a longer timeout."""
KEPT_SECONDS = 1.0
"""For which `Readiness` keeps what it found."""


class PartlyUnavailable(Unavailable):
    """What fails is not needed by all requests."""


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """A part of an installation, of which `probe` raises an exception if it is not ready.

    Callers of `/ready` are not authenticated. Only messages of `DomainError`s are shown to them; any other
    exception is logged, and `symptom` is shown instead.
    """

    name: str
    probe: Callable[[T], None]
    symptom: str
    remedy: str

    def fault(self, subject: T) -> Fault | None:
        """What is wrong and what to do; None if the part is ready."""
        try:
            self.probe(subject)
        except DomainError as error:
            return Fault(f"{error.message} {self.remedy}", isinstance(error, PartlyUnavailable))
        except Exception as error:  # noqa: BLE001 - any exception means that the part is not ready
            log.warning("%s is not ready: %s: %s", self.name, type(error).__name__, error)
            return Fault(f"{self.symptom} {self.remedy}")
        return None


def faults(subject: T, parts: Sequence[Part[T]]) -> dict[str, Fault]:
    """Faults by part; empty if all parts are ready."""
    found = ((part.name, part.fault(subject)) for part in parts)
    return {name: fault for name, fault in found if fault is not None}


class Readiness(Generic[T]):
    """`faults` for the API, to which anyone may send any number of requests: checks once for all who ask, in
    threads other than those that serve requests. A part that does not answer in time is faulty, and is not
    asked again before it has answered. Used from one event loop.
    """

    def __init__(
        self, subject: T, parts: Sequence[Part[T]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._subject = subject
        self._parts = parts
        self._probes: dict[str, asyncio.Future[Fault | None]] = {}
        """By part; the latest one."""
        self._found = SingleFlight(self._check, KEPT_SECONDS, clock)

    async def faults(self) -> dict[str, Fault]:
        return await self._found.get()

    async def _check(self) -> dict[str, Fault]:
        for part in self._parts:
            if part.name not in self._probes or self._probes[part.name].done():
                self._probes[part.name] = _in_thread(partial(part.fault, self._subject))
        await asyncio.wait(self._probes.values(), timeout=PART_SECONDS)
        found = ((part.name, self._fault(part)) for part in self._parts)
        return {name: fault for name, fault in found if fault is not None}

    def _fault(self, part: Part[T]) -> Fault | None:
        probe = self._probes[part.name]
        if probe.done():
            return probe.result()
        return Fault(f"Its check has not ended within {PART_SECONDS:g} s. {part.remedy}")


def _in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """What `call` returns in a thread that ends with the process, which a part that hangs must not keep."""
    future: Future[T] = Future()
    threading.Thread(target=lambda: future.set_result(call()), name="readiness", daemon=True).start()
    return asyncio.wrap_future(future)


def _check_disk_space(resources: Resources) -> None:
    free = shutil.disk_usage(resources.settings.home).free
    if free < LEAST_FREE_BYTES:
        raise DiskFull(f"The disk of the installation has {free >> 20} MB left.")


def _check_database(resources: Resources) -> None:
    with resources.database.read() as tx:
        tx.chain.cursor()


def _check_chain(resources: Resources) -> None:
    resources.chain.check()


def _check_index_is_fresh(resources: Resources) -> None:
    with resources.database.read() as tx:
        check_fresh(tx.chain.cursor(), utc_now(), resources.settings.max_lag_seconds)


def _check_engines_accept(resources: Resources) -> None:
    """Errors: `Unavailable` if no engine accepts a connection; `PartlyUnavailable` if none of some base
    models does.
    """
    bases = resources.settings.served
    accepts = _at_once(_accepts, bases)
    silent = [base.label for base, is_answered in zip(bases, accepts, strict=True) if not is_answered]
    if len(silent) == len(bases):
        raise Unavailable("No engine answers.")
    if silent:
        raise PartlyUnavailable(
            f"No engine of {', '.join(silent)} answers: requests for it get 503, others are answered."
        )


def _accepts(base: Base) -> bool:
    """Whether an engine of the base model accepts a connection."""
    if base.urls:
        from backend.engine.vllm import answers

        return any(_at_once(partial(answers, seconds=ENGINE_SECONDS), base.urls))
    return any(_at_once(_listens, base.sockets.values()))


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
        probe.settimeout(ENGINE_SECONDS)
        probe.connect(str(path))
        return True
    return False


def _at_once(call: Callable[[S], bool], items: Collection[S]) -> list[bool]:
    """The results of the calls, in the time of the slowest."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(call, items))


PARTS: tuple[Part[Resources], ...] = (
    Part(
        "disk",
        _check_disk_space,
        "The folder of the installation is not accessible.",
        "Free space on the disk of LORALEDGER_HOME, or move it to a larger disk.",
    ),
    Part(
        "database",
        _check_database,
        "The database does not respond correctly.",
        "Check that LORALEDGER_DATABASE_URL names it, that it is running, and that its tables exist: "
        "`loraledger index` creates them.",
    ),
    Part(
        "chain",
        _check_chain,
        "The chain does not respond correctly.",
        "Check that LORALEDGER_RPC_URL names a running node of the chain that the contracts are deployed on.",
    ),
    Part(
        "indexer",
        _check_index_is_fresh,
        "The progress of the indexer cannot be read.",
        "Check that `loraledger index` is running, and its log.",
    ),
    Part(
        "engine",
        _check_engines_accept,
        "The engine accepts no connection.",
        "Check that `loraledger engine`, or the base model's vLLM server, is running, and its log; it "
        "accepts once the model is loaded.",
    ),
)
"""Ordered so that a fault may be the cause of the ones after it."""
