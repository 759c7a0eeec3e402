"""Metrics shared by the processes of an installation, so that one scrape returns all of them.

Uses prometheus-client's multiprocess mode: each process writes to separate files, and the scraped process
sums them. A process claims the first free slot of its name, by a lock that the kernel holds until the process
exits. The next process in the slot continues its counters, so that no counter decreases over restarts, and
starts without gauges. The number of files grows with the most processes that run at once.
"""

from __future__ import annotations

import fcntl
import itertools
import logging
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from pathlib import Path

    from prometheus_client import CollectorRegistry

log = logging.getLogger(__name__)

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
GAUGE = "gauge_mostrecent"
KINDS = ("counter", GAUGE, "histogram")
FILE_BYTES = 1 << 20
"""Some 5,000 series. The file is allocated before it is mapped: writing to a mapped page on a full disk would
kill the process.
"""
_locks: list[TextIO] = []


def enable_multiprocess(folder: Path, name: str) -> None:
    """Store this process's metrics in `folder`, in a slot of `name`.

    Must be called before any metric is created. If the files cannot be allocated, the process keeps its
    metrics to itself.
    """
    if FOLDER_VARIABLE in os.environ:
        return
    if "prometheus_client" in sys.modules:
        raise RuntimeError("call enable_multiprocess before any metric is created")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        slot = _claim_slot(folder, name)
        # A gauge of the last holder that this process never sets, such as of a former account, would stay.
        (folder / f"{GAUGE}_{slot}.db").unlink(missing_ok=True)
        for kind in KINDS:
            _allocate(folder / f"{kind}_{slot}.db")
    except OSError as error:
        while _locks:
            _locks.pop().close()
        log.warning("the metrics of this process are not shared: %s", error)
        return
    os.environ[FOLDER_VARIABLE] = str(folder)
    from prometheus_client import values

    shared = values.MultiProcessValue(process_identifier=lambda: slot)  # type: ignore[no-untyped-call]
    values.ValueClass = shared


def running(folder: Path) -> set[str]:
    """Names of the processes that hold a slot in `folder`."""
    return {path.name.rpartition("-")[0] for path in folder.glob("*.lock") if _is_locked(path)}


def shared_registry() -> CollectorRegistry:
    """Registry of all processes' metrics; without `enable_multiprocess`, of this process alone."""
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    if FOLDER_VARIABLE not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _claim_slot(folder: Path, name: str) -> str:
    for number in itertools.count():
        lock = (folder / f"{name}-{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _locks.append(lock)
        return f"{name}-{number}"
    raise AssertionError


def _is_locked(path: Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _allocate(path: Path) -> None:
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
