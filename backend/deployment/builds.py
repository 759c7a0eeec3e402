"""The contracts as they were built for deployment: their code, without a compiler.

`tools/export_contracts.mjs` writes `compiled/`, and `make lint` compares it with the sources. A build is
reproducible: the same sources give the same code on every machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

from backend.domain.errors import NotFound


@dataclass(frozen=True, slots=True)
class Build:
    """Code of one contract. In the runtime code, all immutables are zero."""

    creation: bytes
    """Creation code, which the constructor's arguments follow."""
    runtime: bytes
    immutables: tuple[tuple[int, int], ...]
    """Offset and length of each place of an immutable in the runtime code."""

    def mask_immutables(self, code: bytes) -> bytes:
        """Replace the immutables in runtime code by zeros."""
        masked = bytearray(code)
        for start, length in self.immutables:
            if start + length <= len(masked):
                masked[start : start + length] = bytes(length)
        return bytes(masked)


@cache
def load_build(contract: str) -> Build:
    """Load the build of a contract. Errors: `NotFound`."""
    path = resources.files("backend.deployment") / "compiled" / f"{contract}.json"
    if not path.is_file():
        raise NotFound(f"there is no build of a contract {contract}", param="contract")
    content = json.loads(path.read_text())
    immutables = tuple((start, length) for start, length in content["immutables"])
    return Build(bytes.fromhex(content["creation"]), bytes.fromhex(content["runtime"]), immutables)
