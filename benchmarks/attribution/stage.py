"""Cost of the gradient stage in serving: `python -m benchmarks.attribution.stage --json`.

The engine's process answers questions with several adapters, by itself and with every answer given to the
stage's process, in turns. `lost` is the share of throughput that the stage costs where both share the
processors: the stage's processor time over that of both. The wall-clock figure ends with the last
attributed answer; it counts only on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from backend.domain.attribution import CHECKPOINT_FILE, GRADIENT_METHOD, INDEX_FILE, INDEX_METADATA
from backend.engine.client import EngineClient
from backend.engine.gradient_client import GradientClient
from backend.engine.process import EngineProcess
from backend.ports.gradients import GradientRequest
from benchmarks.engine import machine
from benchmarks.engine.adapters import make_adapters
from benchmarks.model_options import add_model_options, model_of
from benchmarks.processes import await_listeners, running
from benchmarks.reexecution.__main__ import QUESTIONS
from inference.lora.files import adapter_digest
from inference.protocol import AdapterRef, Generate, Message, Sampling
from workers.training.sketch import SKETCH_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORK = Path("build/bench/stage")
NUM_CONTRIBUTIONS = 14


@dataclass(frozen=True, slots=True)
class Turn:
    """One run over all answers, with or without the stage. Times in seconds."""

    tokens: int
    wall: float
    engine: float  # processor time
    stage: float  # processor time; 0 without the stage

    @property
    def lost(self) -> float:
        return self.stage / (self.engine + self.stage)


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    model = model_of(options)
    folders = [_indexed(folder) for folder in make_adapters(WORK, model, options.adapters)]
    adapters = [AdapterRef(adapter_digest(folder), str(folder.resolve())) for folder in folders]
    requests = [
        Generate(
            f"{number}",
            (Message("user", QUESTIONS[number % len(QUESTIONS)]),),
            adapter=adapters[number % len(adapters)],
            sampling=Sampling(max_tokens=options.tokens, temperature=0.0, ignore_eos=True),
            probe=True,
            probe_error=True,
        )
        for number in range(options.answers)
    ]
    with ExitStack() as stack:
        engine = stack.enter_context(_served(model, "inference.server", options.threads))
        stage = stack.enter_context(_served(model, "workers.gradients", options.threads))
        turns = asyncio.run(_turns(engine, stage, requests, options.repeats))
    report = {
        **_summary(turns),
        "answers": options.answers,
        "tokens": options.tokens,
        "adapters": options.adapters,
        "threads": options.threads,
        "model": model.name,
        "machine": machine.describe(),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    print(json.dumps(report, indent=2) if options.json else _text(report))
    return 0


def _summary(turns: Sequence[tuple[Turn, Turn]]) -> dict[str, Any]:
    """`serving_cost_stage`: median share of throughput lost; the price of an answer that covers it is higher
    by `price_factor`.
    """
    lost = statistics.median(with_stage.lost for _, with_stage in turns)
    return {
        "serving_cost_stage": round(lost, 3),
        "price_factor": round(1 / (1 - lost), 2),
        "lost_by_wall_clock": round(statistics.median(1 - off.wall / on.wall for off, on in turns), 3),
        "tokens_per_processor_second": {
            "off": round(statistics.median(off.tokens / off.engine for off, _ in turns), 1),
            "on": round(statistics.median(on.tokens / (on.engine + on.stage) for _, on in turns), 1),
        },
        "turns": len(turns),
    }


def _text(report: dict[str, Any]) -> str:
    rates = report["tokens_per_processor_second"]
    return (
        f"throughput lost to the gradient stage: {report['serving_cost_stage']:.1%} of processor time, "
        f"{report['lost_by_wall_clock']:.1%} by the clock ({rates['off']} tokens per processor second "
        f"without, {rates['on']} with it); a price of {report['price_factor']} times covers it"
    )


async def _turns(
    engine: tuple[Path, int], stage: tuple[Path, int], requests: Sequence[Generate], repeats: int
) -> list[tuple[Turn, Turn]]:
    async with EngineClient(engine[0]) as client:
        gradients = GradientClient(stage[0])
        await _turn(client, None, engine[1], stage[1], requests)  # warms up caches and kernels
        await _turn(client, gradients, engine[1], stage[1], requests)
        turns = []
        for _ in range(repeats):
            off = await _turn(client, None, engine[1], stage[1], requests)
            turns.append((off, await _turn(client, gradients, engine[1], stage[1], requests)))
        await gradients.close()
    return turns


async def _turn(
    engine: EngineClient,
    gradients: GradientClient | None,
    engine_pid: int,
    stage_pid: int,
    requests: Sequence[Generate],
) -> Turn:
    async def answer(request: Generate) -> int:
        chunks = [chunk async for chunk in engine.generate(request)]
        token_ids = [token for chunk in chunks for token in chunk.token_ids]
        if gradients is not None and request.adapter is not None:
            asked = GradientRequest(
                request.request_id,
                (request.adapter.path,),
                (tuple(token_ids),),
                chunks[-1].prompt_tokens + len(token_ids),
                seconds=3600,
                messages=request.messages,
            )
            await gradients.scores(asked)
        return len(token_ids)

    before = machine.Usage.now(engine_pid), machine.Usage.now(stage_pid)
    began = time.perf_counter()
    tokens = sum(await asyncio.gather(*map(answer, requests)))
    wall = time.perf_counter() - began
    after = machine.Usage.now(engine_pid), machine.Usage.now(stage_pid)
    engine_used, stage_used = (
        new.process_seconds - old.process_seconds for new, old in zip(after, before, strict=True)
    )
    return Turn(tokens, wall, engine_used, stage_used if gradients is not None else 0.0)


@contextmanager
def _served(model: Path, module: str, num_threads: int) -> Iterator[tuple[Path, int]]:
    """The process's socket, once it serves, and its id."""
    WORK.mkdir(parents=True, exist_ok=True)
    socket = WORK / f"{module}.sock"
    socket.unlink(missing_ok=True)
    engine = EngineProcess(socket, model, num_threads=num_threads, module=module, ends_with_stdin=False)
    with running(engine.arguments(), engine.environment()) as process:
        await_listeners([process], [socket])
        yield socket, process.pid


def _indexed(folder: Path) -> Path:
    """Add a checkpoint, which is the adapter itself, and an index with random directions."""
    if not (folder / INDEX_FILE).exists():
        source = np.random.default_rng(0)
        size = 64
        tensors: dict[str, Any] = {
            "positions": np.arange(NUM_CONTRIBUTIONS, dtype=np.int64),
            "rows": np.ones(NUM_CONTRIBUTIONS, dtype=np.int64),
            "hidden.vectors": np.zeros((NUM_CONTRIBUTIONS, size), dtype=np.float32),
            "hidden.centre": np.zeros(size, dtype=np.float32),
            "error.vectors": np.zeros((NUM_CONTRIBUTIONS, size), dtype=np.float32),
            "gradient.vectors": source.normal(size=(NUM_CONTRIBUTIONS, SKETCH_SIZE)).astype(np.float32),
        }
        shutil.copyfile(folder / "adapter_model.safetensors", folder / CHECKPOINT_FILE)
        save_file(tensors, folder / INDEX_FILE, INDEX_METADATA | {"methods": GRADIENT_METHOD})
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attribution.stage",
        description="Measure what the gradient stage costs in serving.",
    )
    add = parser.add_argument
    add_model_options(parser)
    add("--answers", type=int, default=32)
    add("--tokens", type=int, default=64, help="tokens of an answer")
    add("--adapters", type=int, default=4)
    add("--threads", type=int, default=2, help="of each process")
    add("--repeats", type=int, default=3)
    add("--json", action="store_true", help="print a JSON object")
    return parser


if __name__ == "__main__":
    sys.exit(main())
