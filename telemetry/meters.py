"""Counters and histograms that the processes of an installation share, so that one scrape shows them all.

Each process writes to files of its own, by prometheus-client's multiprocess mode; whoever is scraped adds
them up. A process takes the first free seat of its kind, by a lock that the kernel holds for as long as it
lives: the next holder of a seat goes on counting where the last one ended, so nothing counts backwards over
restarts, and there are never more files than processes that ran at once.
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

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
KINDS = ("counter", "gauge_mostrecent", "histogram")
FILE_BYTES = 1 << 20
"""Some 5,000 series. It is allocated before it is mapped: a write to a mapped page that a full disk has no
room for would end the process.
"""
_held: list[TextIO] = []


def share(folder: Path, name: str) -> None:
    """From now on this process counts in `folder`, as one of those called `name`.

    To be called before any metric is made. Where there is no room for its files it counts for itself.
    """
    if FOLDER in os.environ:
        return
    if "prometheus_client" in sys.modules:
        raise RuntimeError("metrics were made before it was said where they are kept")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        seat = _seat(folder, name)
        for kind in KINDS:
            _allocate(folder / f"{kind}_{seat}.db")
    except OSError as error:
        while _held:
            _held.pop().close()
        log.warning("what this process counts is not shared: %s", error)
        return
    os.environ[FOLDER] = str(folder)
    from prometheus_client import values

    shared = values.MultiProcessValue(process_identifier=lambda: seat)  # type: ignore[no-untyped-call]
    values.ValueClass = shared


def shared_registry() -> CollectorRegistry:
    """What all processes have counted; without `share`, this one alone."""
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.multiprocess import MultiProcessCollector

    if FOLDER not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _seat(folder: Path, name: str) -> str:
    for number in itertools.count():
        lock = (folder / f"{name}-{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held.append(lock)
        return f"{name}-{number}"
    raise AssertionError


def _allocate(path: Path) -> None:
    with path.open("ab") as file:
        os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
