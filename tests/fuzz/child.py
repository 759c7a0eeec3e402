"""One target under atheris: `python -m tests.fuzz.child MODULE TARGET [options of libFuzzer]`."""

from __future__ import annotations

import importlib
import sys

import atheris

from tests.fuzz.target import check

INSTRUMENTED = {
    "tests.fuzz.adapters": ["inference.lora", "inference.model.gguf", "gguf"],
    "tests.fuzz.content": ["backend.domain.content", "backend.storage"],
    "tests.fuzz.documents": [
        "backend.client.evidence",
        "backend.client.receipt_file",
        "backend.domain",
        "backend.services.contribute",
        "backend.services.market.cards",
        "backend.services.operator.directory",
        "boolean",
        "license_expression",
    ],
    "tests.fuzz.messages": [
        "backend.api.paging",
        "backend.chain.contracts",
        "backend.client.signing",
        "backend.domain",
        "eth_abi",
        "inference.server.frames",
    ],
    "tests.fuzz.uploads": ["backend.api.tus", "backend.domain.dataset", "backend.services.contribute"],
}
"""Packages whose branches guide the search, by the module of the target. Each takes time to instrument."""


def main() -> None:
    module, name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED[module]):
        targets = importlib.import_module(module).TARGETS
        target = next(each for each in targets if each.name == name)
        target.run(target.seeds()[0])  # imports what it needs, which is no cost of an input
    atheris.Setup([sys.argv[0], *options], lambda data: check(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
