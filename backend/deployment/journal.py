"""Write-ahead journal of a deployment's transactions, from which an interrupted run continues."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from backend.disk.files import write_durably
from backend.domain.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.ids import Account, Hash32

FORMAT = "loraledger-deployment-journal-1"


@dataclass(frozen=True, slots=True)
class Origin:
    """The deployment that a journal belongs to. `genesis`, the hash of block 0, identifies the chain."""

    chain_id: int
    genesis: Hash32
    deployer: Account


@dataclass(frozen=True, slots=True)
class Step:
    """One signed transaction and its replacements. Fees in wei per gas."""

    call: str
    """`Contract.function`, or `Contract.constructor`."""
    digest: Hash32
    """Keccak of receiver and data."""
    nonce: int = 0
    gas: int = 0
    max_fee: int = 0
    priority_fee: int = 0
    raw: str = ""
    """The latest version, signed, 0x-hex."""
    hashes: tuple[Hash32, ...] = ()
    """Hashes of all versions. They share the nonce, so at most one of them is mined."""


class Journal:
    """The steps of one deployment, in an order that is the same in every run. Without a path it is in memory.

    Errors: `Conflict` if the file is of another chain, deployer, terms or build than this run.
    """

    def __init__(self, origin: Origin | None = None, path: Path | None = None) -> None:
        self._origin, self._path = origin, path
        self._steps: list[Step] = []
        self._next = 0
        if path is not None and path.exists():
            self._steps = self._read(path)

    @property
    def steps(self) -> tuple[Step, ...]:
        return tuple(self._steps)

    @property
    def position(self) -> int:
        """Number of steps that this run has passed."""
        return self._next

    @property
    def next_nonce(self) -> int | None:
        """Nonce of the next step; None if no earlier run recorded it."""
        return None if self._next == len(self._steps) else self._steps[self._next].nonce

    def replay(self, call: str, digest: Hash32) -> Step | None:
        """Pass the next step if an earlier run recorded it; None if this run is the first to reach it."""
        if self._next == len(self._steps):
            return None
        step = self._steps[self._next]
        if (step.call, step.digest) != (call, digest):
            raise Conflict(
                f"step {self._next + 1} of {self._path} is {step.call}, but this run would send {call} or "
                "other data: continue with the terms and the build that the deployment began with",
                param="journal",
            )
        self._next += 1
        return step

    def append(self, step: Step) -> None:
        """Record a new step durably."""
        self._steps.append(step)
        self._next += 1
        self._write()

    def replace(self, old: Step, new: Step) -> None:
        """Record the replacement of a step durably."""
        self._steps[self._steps.index(old)] = new
        self._write()

    def _read(self, path: Path) -> list[Step]:
        try:
            raw = json.loads(path.read_text())
            origin = Origin(**raw["origin"])
            steps = [Step(**(step | {"hashes": tuple(step["hashes"])})) for step in raw["steps"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"{path} is not a deployment's journal: {error!r}", param="journal") from error
        if origin != self._origin:
            raise Conflict(
                f"{path} belongs to another deployment: move it away to begin a new one",
                param="journal",
                details={"journal": origin, "now": self._origin},
            )
        return steps

    def _write(self) -> None:
        if self._path is None or self._origin is None:
            return
        content: dict[str, Any] = {
            "format": FORMAT,
            "origin": asdict(self._origin),
            "steps": [asdict(step) for step in self._steps],
        }
        write_durably(self._path, json.dumps(content, indent=1) + "\n")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock a folder, since two deployments at once would send everything twice.

    Errors: `Conflict` if another process has the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another deployment into {folder} is running", param="journal") from None
        yield
    finally:
        os.close(lock)
