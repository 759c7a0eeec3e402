"""Runs the seeds and the kept inputs of a target, without atheris: `python -m tests.fuzz.replay TARGET`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.fuzz.target import check
from tests.fuzz.targets import CORPORA, TARGETS

if TYPE_CHECKING:
    from tests.fuzz.target import Target


def replay(target: Target) -> None:
    """Errors: those of `check`."""
    target.run(target.seeds()[0])  # what it imports is no cost of an input
    kept = sorted((CORPORA / target.name).glob("*"))
    for data in [*target.seeds(), *(path.read_bytes() for path in kept)]:
        check(target, data)


if __name__ == "__main__":
    replay(TARGETS[sys.argv[1]])
