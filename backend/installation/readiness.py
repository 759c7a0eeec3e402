"""Readiness checks of an installation's parts, each with a remedy."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from backend.domain.errors import DiskFull, DomainError, Unavailable
from backend.domain.readiness import Fault
from backend.installation.resources import utc_now
from backend.services.channels.balance import check_fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.installation.resources import Resources
    from backend.settings import Base

log = logging.getLogger(__name__)
T = TypeVar("T")

LEAST_FREE_BYTES = 256 << 20
"""Free space on the disk of `LORALEDGER_HOME` below which new work should be routed elsewhere."""
ENGINE_SECONDS = 1.0


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
    silent = [base.label for base in bases if not _accepts(base)]
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

        return any(answers(url, ENGINE_SECONDS) for url in base.urls)
    for path in base.sockets.values():
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.settimeout(ENGINE_SECONDS)
            probe.connect(str(path))
            return True
    return False


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
