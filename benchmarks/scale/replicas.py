"""Measures one, two and four engines behind the router: `python -m benchmarks.scale.replicas [--json]`.

Closed-loop clients request adapters by Zipf's law. The memory of an engine holds a part of the adapters.
Each number of engines is measured with the router and with round robin; then one of several engines is killed
under the same load, and the answers that failed are counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import random
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.domain.errors import Unavailable
from backend.engine.client import EngineClient
from backend.engine.process import EngineProcess
from backend.engine.replicas import Replicas
from backend.processes.child import Child
from benchmarks.engine import machine
from benchmarks.engine.adapters import make_adapters, num_weight_bytes
from benchmarks.engine.measure import percentile
from inference.lora.files import adapter_digest
from inference.model.sources import resolve_model
from inference.protocol import AdapterRef, Generate, Sampling

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from inference.protocol import Chunk

NUMBERS = (1, 2, 4)
START_SECONDS = 300.0
WORK = Path("build", "bench")


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. `tokens_per_cpu_second`: over the engines' processor time. `loads`: adapters read from the
    disk for each request. `failed`: answers that ended with an error.
    """

    engines: int
    router: str
    requests: int
    tokens_per_second: float
    tokens_per_cpu_second: float
    ttft_p50_ms: float
    ttft_p99_ms: float
    loads: float
    failed: int


class RoundRobin:
    """The baseline: each request goes to the next engine, without regard to its adapter."""

    def __init__(self, engines: Sequence[EngineClient]) -> None:
        self._turns = itertools.cycle(engines)

    def generate(self, request: Generate) -> AsyncIterator[Chunk]:
        return next(self._turns).generate(request)


@dataclass(frozen=True, slots=True)
class Load:
    adapters: Sequence[AdapterRef]
    clients: int
    requests: int
    tokens: int
    seed: int = 1

    def each(self) -> Iterator[Generate]:
        """The requests, the same ones in every run."""
        dice = random.Random(self.seed)  # noqa: S311 - repeatable
        weights = [1 / rank for rank in range(1, len(self.adapters) + 1)]
        sampling = Sampling(max_tokens=self.tokens, temperature=0.0, ignore_eos=True)
        for number in range(self.requests):
            (adapter,) = dice.choices(self.adapters, weights)
            text = f"Request {number} is about {dice.random()}."
            yield Generate(f"r{number}", prompt=text, adapter=adapter, sampling=sampling)


@dataclass(slots=True)
class _Answers:
    tokens: int = 0
    failed: int = 0
    waits: list[float] | None = None


class Fleet:
    """Engine processes of one base model."""

    def __init__(self, children: Sequence[Child], sockets: Sequence[Path]) -> None:
        self.children, self._sockets = children, sockets

    @contextlib.asynccontextmanager
    async def clients(self) -> AsyncIterator[list[EngineClient]]:
        async with contextlib.AsyncExitStack() as stack:
            yield [await stack.enter_async_context(EngineClient(path)) for path in self._sockets]

    def cpu_seconds(self) -> float:
        return sum(machine.Usage.now(child.pid).process_seconds for child in self.children)


@contextlib.contextmanager
def fleet(number: int, model: Path, budget_bytes: int) -> Iterator[Fleet]:
    """`number` engines with a thread and `budget_bytes` for adapters each, ready."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loraledger-")))
        sockets = [folder / f"{each}.sock" for each in range(number)]
        options: dict[str, str | int] = {"adapter_budget_bytes": budget_bytes, "kv_budget_bytes": 256 << 20}
        children = []
        for path in sockets:
            process = EngineProcess(path, model, num_threads=1, options=options)
            child = Child(process.arguments(), environment=process.environment())
            children.append(stack.enter_context(child))
        deadline = time.monotonic() + START_SECONDS
        while not all(path.exists() for path in sockets):
            if time.monotonic() > deadline or any(child.status is not None for child in children):
                raise RuntimeError("an engine did not start")
            time.sleep(0.1)
        yield Fleet(children, sockets)


async def run(
    engines: Fleet, load: Load, router: str, after_half: Callable[[], None] = lambda: None
) -> Figures:
    """Serve the load; `after_half` is called when half of the requests have begun."""
    async with engines.clients() as clients:
        named = {str(number): client for number, client in enumerate(clients)}
        target: Any = Replicas(named) if router == "affinity" else RoundRobin(clients)
        loads = await _num_loads(clients)
        cpu, began = engines.cpu_seconds(), time.perf_counter()
        answers = await _serve(target, load, after_half)
        seconds, cpu = time.perf_counter() - began, engines.cpu_seconds() - cpu
        found = await _num_loads(clients) - loads
        if router == "affinity":
            await target.close()
    waits = answers.waits or [0.0]
    return Figures(
        engines=len(clients),
        router=router,
        requests=load.requests,
        tokens_per_second=round(answers.tokens / seconds, 1),
        tokens_per_cpu_second=round(answers.tokens / cpu, 1),
        ttft_p50_ms=round(1e3 * percentile(waits, 50), 1),
        ttft_p99_ms=round(1e3 * percentile(waits, 99), 1),
        loads=round(found / load.requests, 3),
        failed=answers.failed,
    )


async def _serve(target: Any, load: Load, after_half: Callable[[], None]) -> _Answers:
    answers, pending = _Answers(waits=[]), load.each()

    async def client() -> None:
        for request in pending:
            if request.request_id == f"r{load.requests // 2}":
                after_half()
            await _answer(target, request, answers)

    await asyncio.gather(*(client() for _ in range(load.clients)))
    return answers


async def _answer(target: Any, request: Generate, answers: _Answers) -> None:
    began, is_first = time.perf_counter(), True
    try:
        async for chunk in target.generate(request):
            if is_first and answers.waits is not None:
                answers.waits.append(time.perf_counter() - began)
            is_first = False
            answers.tokens += len(chunk.token_ids)
    except Unavailable:
        answers.failed += 1


async def _num_loads(clients: Sequence[EngineClient]) -> int:
    """Adapters that the engines which still run have read so far."""
    total = 0
    for client in clients:
        with contextlib.suppress(Unavailable):
            total += (await client.status()).adapter_loads
    return total


def measure(model: Path, load: Load, resident: int, numbers: Sequence[int]) -> Iterator[Figures]:
    """`resident`: adapters that fit into the memory of one engine."""
    budget = int(1.1 * resident * num_weight_bytes(model))
    for number in numbers:
        for router in ("round robin", "affinity"):
            with fleet(number, model, budget) as engines:
                yield asyncio.run(run(engines, load, router))
        if number > 1:
            with fleet(number, model, budget) as engines:
                found = asyncio.run(run(engines, load, "affinity", engines.children[0].kill))
                yield Figures(**{**asdict(found), "router": "affinity, one engine killed"})


def main() -> int:
    options = _parser().parse_args()
    model = resolve_model(options.model, options.model_cache)
    folders = make_adapters(WORK / "adapters", model, options.adapters)
    refs = [AdapterRef(adapter_digest(folder), str(folder)) for folder in folders]
    load = Load(refs, options.clients, options.requests, options.tokens)
    rows = []
    for row in measure(model, load, options.resident, options.engines):
        rows.append(asdict(row))
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"rows": rows, "machine": machine.describe(), "resident": options.resident}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="", help="base model; default: bundled")
    add("--model-cache", type=Path, default=Path(".loraledger/cache/models"))
    add("--engines", type=int, nargs="+", default=NUMBERS, help="default: 1 2 4")
    add("--adapters", type=int, default=64)
    add("--resident", type=int, default=16, help="adapters that fit into an engine's memory")
    add("--clients", type=int, default=16)
    add("--requests", type=int, default=400)
    add("--tokens", type=int, default=16, help="of an answer")
    add("--json", action="store_true", help="print a JSON object at the end")
    return parser


if __name__ == "__main__":
    sys.exit(main())
