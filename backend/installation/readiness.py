"""Whether the parts of an installation answer, and what to do about those that do not."""

from __future__ import annotations

import logging
import shutil
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.domain.errors import Conflict, DiskFull, DomainError
from backend.installation.installation import utc_now
from backend.installation.training_payments import payments_of
from backend.services.channels.balance import check_fresh

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.installation.installation import Installation

log = logging.getLogger(__name__)

LEAST_FREE_BYTES = 256 << 20
"""With less on the disk of `LORALEDGER_HOME`, new work should go elsewhere before this one fails at it."""


@dataclass(frozen=True, slots=True)
class Part:
    """What an installation needs. Whoever asks may be a stranger: of what is wrong only `DomainError`s, whose
    words are ours, are shown; the rest is in the log, and `symptom` stands for it.
    """

    name: str
    probe: Callable[[Installation], None]
    symptom: str
    remedy: str

    def fault(self, installation: Installation) -> str | None:
        try:
            self.probe(installation)
        except DomainError as error:
            return f"{error.message} {self.remedy}"
        except Exception as error:  # noqa: BLE001 - whatever is wrong is what is to be said
            log.warning("%s is not ready: %s: %s", self.name, type(error).__name__, error)
            return f"{self.symptom} {self.remedy}"
        return None


def faults(installation: Installation, parts: Sequence[Part] | None = None) -> dict[str, str]:
    """Part -> what is wrong with it, and what to do; empty when all parts answer. `parts`: else `PARTS`."""
    found = ((part.name, part.fault(installation)) for part in (PARTS if parts is None else parts))
    return {name: fault for name, fault in found if fault is not None}


def _disk_has_room(installation: Installation) -> None:
    free = shutil.disk_usage(installation.settings.home).free
    if free < LEAST_FREE_BYTES:
        raise DiskFull(f"The disk of the installation has {free >> 20} MB left.")


def _read_something(installation: Installation) -> None:
    with installation.database.read() as tx:
        tx.chain.cursor()


def _chain_is_ours(installation: Installation) -> None:
    installation.chain.check()


def _view_is_fresh(installation: Installation) -> None:
    with installation.database.read() as tx:
        check_fresh(tx.chain.cursor(), utc_now(), installation.settings.max_lag_seconds)


def _engine_accepts(installation: Installation) -> None:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        probe.connect(str(installation.settings.engine_socket))


def _could_settle(installation: Installation) -> None:
    if obstacles := installation.membership.place().obstacles:
        raise Conflict(f"It could not settle: {'; '.join(obstacles)}.")


def _is_sold(installation: Installation) -> None:
    installation.catalogue.resolve(installation.base.name)
    with installation.database.read() as tx:
        payments_of(installation).check_offered(tx.chain)


PARTS = (
    Part(
        "disk",
        _disk_has_room,
        "The folder of the installation cannot be looked at.",
        "Make room where LORALEDGER_HOME lies, or move it to a larger disk.",
    ),
    Part(
        "database",
        _read_something,
        "The database does not answer as it should.",
        "See that LORALEDGER_DATABASE_URL names it, that it runs, and that its tables are there: "
        "`loraledger index` makes them.",
    ),
    Part(
        "chain",
        _chain_is_ours,
        "The chain does not answer as it should.",
        "See that LORALEDGER_RPC_URL names a node of the chain that the contracts are on, and that it runs.",
    ),
    Part(
        "indexer",
        _view_is_fresh,
        "How far the chain is indexed cannot be read.",
        "See that `loraledger index` runs and what its log says.",
    ),
    Part(
        "engine",
        _engine_accepts,
        "Nothing answers on the engine's socket.",
        "See that `loraledger engine` runs and what its log says; it answers once the model is loaded.",
    ),
)
"""In the order in which a fault is the cause of those below."""
OPERATOR_PARTS = (
    Part(
        "operator",
        _could_settle,
        "What the market has of this operator cannot be read.",
        "`loraledger operator show` says what the market has of it.",
    ),
    Part(
        "base",
        _is_sold,
        "What the base model is sold by cannot be read.",
        "`loraledger operator base --prices PROMPT COMPLETION` registers what the base model and training on "
        "it cost, which counts once `loraledger index` has it.",
    ),
)
"""What an operator must have on the chain to earn. No answer fails for it yet, so `/ready` does not ask."""
