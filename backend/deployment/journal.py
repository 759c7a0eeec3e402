"""What a deployment has sent, on disk before it is sent: a run that dies is continued, never repeated."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from backend.domain.ids import Account, Hash32

FORMAT = "loraledger-deployment-journal-1"


@dataclass(frozen=True, slots=True)
class Origin:
    """Which chain, told by its first block from another one with the same id, and whose transactions."""

    chain_id: int
    genesis: Hash32
    deployer: Account


@dataclass(frozen=True, slots=True)
class Step:
    """One signed transaction. `digest` is Keccak of receiver and data; `hashes` name it at each fee that was
    tried, all with the same nonce, so that at most one of them is ever mined. `raw` is the last one.
    """

    what: str
    digest: Hash32
    nonce: int = 0
    gas: int = 0
    max_fee: int = 0
    tip: int = 0
    raw: str = ""
    hashes: tuple[Hash32, ...] = ()


class Journal:
    """The steps of one deployment, in their order, which is the same in every run. Without a path it forgets.

    Errors: `Conflict` when the file tells of another chain, deployer, terms or build than this run's.
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
        """How many steps this run has come through."""
        return self._next

    @property
    def next_nonce(self) -> int | None:
        """Of the next step, where an earlier run noted it."""
        return None if self._next == len(self._steps) else self._steps[self._next].nonce

    def recall(self, what: str, digest: Hash32) -> Step | None:
        """The next step as an earlier run noted it; None where this run is the first to come here."""
        if self._next == len(self._steps):
            return None
        known = self._steps[self._next]
        if (known.what, known.digest) != (what, digest):
            raise Conflict(
                f"{self._path} says that step {self._next + 1} was {known.what}, but now it would be {what} "
                "or have other data: continue with the terms and the build that the deployment began with",
                param="journal",
            )
        self._next += 1
        return known

    def note(self, step: Step) -> None:
        """Keep a new step; it is on disk when this returns."""
        self._steps.append(step)
        self._next += 1
        self._write()

    def renew(self, old: Step, new: Step) -> None:
        """The same step with another fee."""
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


def write_durably(path: Path, text: str) -> None:
    """Whole or not at all, and on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    with draft.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock a folder. `Conflict` while another process does: two runs would deploy everything twice."""
    folder.mkdir(parents=True, exist_ok=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"another deployment into {folder} is running", param="journal") from None
        yield
    finally:
        os.close(held)
