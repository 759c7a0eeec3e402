"""Measures the error rates of re-execution: `python -m benchmarks.reexecution --json`.

Adapters of SmolLM2-135M, of rank 8 with random weights, answer plain questions greedily. Honest and
substituted answers are re-executed as by `loraledger receipts verify --re-execute`: in bf16, batch-invariant.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.services.receipts.reexecution import MAX_ALTERNATIVES, ROUNDING_GAP, reexecution_from_chunks
from benchmarks.engine import machine
from benchmarks.engine.adapters import make_adapters
from benchmarks.model_options import add_model_options, model_of
from benchmarks.reexecution.rates import base_model, honest, swapped, table
from inference.config import EngineConfig
from inference.engine import Engine
from inference.lora.files import adapter_digest
from inference.outputs import Failure
from inference.protocol import AdapterRef, Generate, Message, Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from benchmarks.reexecution.rates import Answers
    from inference.protocol import Chunk

WORK = Path("build/bench/adapters")
QUESTIONS = (
    "What is the capital of Norway?",
    "Explain why the sky is blue in two sentences.",
    "Write a Python function that reverses a list.",
    "Name three uses of salt.",
    "Translate 'good morning' into French.",
    "What does a compiler do?",
    "Who wrote Hamlet, and when?",
    "What is the difference between RAM and a hard disk?",
)
SERVED: dict[str, dict[str, Any]] = {
    "batch-invariant, bf16": {"batch_invariant": True},
    "not batch-invariant, bf16": {},
    "not batch-invariant, float32": {"dtype": "float32"},
}
"""Options of the operator's engine, by name."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    started_at = time.monotonic()
    model = model_of(options)
    adapters = [
        AdapterRef(adapter_digest(folder), str(folder.resolve()))
        for folder in make_adapters(WORK, model, options.adapters)
    ]
    config: dict[str, Any] = {"model_path": model, "num_threads": options.threads}
    again = _answers(EngineConfig(**config, batch_invariant=True), adapters, options.tokens)
    rows: dict[str, dict[str, Any]] = {}
    for name, options_served in SERVED.items():
        served = _answers(EngineConfig(**config, **options_served), adapters, options.tokens)
        rows[f"honest, {name}"] = asdict(honest(served, again))
        rows[f"another adapter's, {name}"] = asdict(swapped(served, again, len(adapters)))
        rows[f"the base model's, {name}"] = asdict(base_model(served, again))
    report = {
        "rows": rows,
        "rounding_gap": ROUNDING_GAP,
        "tokens": options.tokens,
        "adapters": options.adapters,
        "seconds": round(time.monotonic() - started_at),
        "machine": machine.describe(),
        "num_threads": options.threads,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    sys.stdout.write(json.dumps(report) + "\n" if options.json else table(rows) + "\n")
    return 0


def _answers(config: EngineConfig, adapters: Sequence[AdapterRef], tokens: int) -> Answers:
    """Answers to all questions, with each adapter and with none, submitted as one batch."""
    engine = Engine(config)
    try:
        sampling = Sampling(max_tokens=tokens, temperature=0.0, logprobs=MAX_ALTERNATIVES)
        for number, adapter in enumerate([*adapters, None]):
            for prompt, question in enumerate(QUESTIONS):
                name = f"{-1 if adapter is None else number} {prompt}"
                engine.add(Generate(name, (Message("user", question),), adapter=adapter, sampling=sampling))
        chunks: dict[str, list[Chunk]] = {}
        for chunk in _chunks(engine):
            chunks.setdefault(chunk.request_id, []).append(chunk)
    finally:
        engine.close()
    return {_key(name): reexecution_from_chunks(found) for name, found in chunks.items()}


def _chunks(engine: Engine) -> Iterator[Chunk]:
    """Chunks of all requests. Raises the error of a request that fails."""
    for output in engine.run():
        if isinstance(output, Failure):
            raise output.error
        yield output


def _key(name: str) -> tuple[int, int]:
    adapter, prompt = map(int, name.split())
    return adapter, prompt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.reexecution",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", action="store_true", help="print one JSON object instead of the table")
    add("--adapters", type=int, default=3, help="number of adapters; default: 3")
    add("--tokens", type=int, default=24, help="limit of each answer; default: 24")
    add("--threads", type=int, default=2, help="threads of the engine; default: 2")
    add_model_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
