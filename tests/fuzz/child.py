"""One target under atheris: `python -m tests.fuzz.child MODULE TARGET [options of libFuzzer]`."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from random import Random
from typing import TYPE_CHECKING

import atheris

from tests.fuzz.target import check

if TYPE_CHECKING:
    from tests.fuzz.mutations import Mutation

INSTRUMENTED = {
    "tests.fuzz.adapters": ["inference.lora", "inference.model.gguf", "inference.model.gguf_reader", "gguf"],
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
    "tests.fuzz.indices": [
        "backend.domain.attribution",
        "backend.services.answers",
        "backend.services.contribute.answers_file",
        "backend.services.market.agreements",
    ],
    "tests.fuzz.messages": [
        "backend.api.paging",
        "backend.chain.contracts",
        "backend.client.comparison",
        "backend.client.signing",
        "backend.domain",
        "eth_abi",
        "inference.server.frames",
    ],
    "tests.fuzz.uploads": ["backend.api.tus", "backend.domain.dataset", "backend.services.contribute"],
}
"""Packages whose branches guide the search, by the module of the target. Each takes time to instrument."""
OWN_MUTATIONS = 0.5
"""Share of the mutations of a target that has its own."""


def main() -> None:
    module, name, *options = sys.argv[1:]
    with atheris.instrument_imports(include=INSTRUMENTED[module]):
        targets = importlib.import_module(module).TARGETS
        target = next(each for each in targets if each.name == name)
        target.run(target.seeds()[0])  # imports what it needs, which is no cost of an input
    own = {} if target.mutate is None else {"custom_mutator": partial(mutate, target.mutate)}
    atheris.Setup([sys.argv[0], *options], lambda data: check(target, data), **own)
    atheris.Fuzz()


def mutate(mutation: Mutation, data: bytes, max_bytes: int, seed: int) -> bytes:
    """Another input of at most `max_bytes`, by the target's own mutation or one of libFuzzer's."""
    random = Random(seed)
    if random.random() < OWN_MUTATIONS:
        changed = mutation(data, random)
        if changed != data and len(changed) <= max_bytes:
            return changed
    return bytes(atheris.Mutate(data, max_bytes))


if __name__ == "__main__":
    main()
