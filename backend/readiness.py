"""Whether the parts of an installation answer."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from backend.bootstrap import utc_now
from backend.services.standing import check_fresh

if TYPE_CHECKING:
    from collections.abc import Callable

    from backend.bootstrap import Installation


def faults(installation: Installation) -> dict[str, str]:
    """Part -> what is wrong with it; empty when all parts answer."""
    probes: dict[str, Callable[[Installation], None]] = {
        "database": _read_something,
        "chain": _chain_is_ours,
        "indexer": _view_is_fresh,
        "engine": _engine_accepts,
    }
    found: dict[str, str] = {}
    for name, probe in probes.items():
        try:
            probe(installation)
        except Exception as error:  # noqa: BLE001 - whatever is wrong is what is to be said
            found[name] = str(error)
    return found


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
