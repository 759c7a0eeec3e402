"""Our own engine as a contestant. `python -m benchmarks.engine` starts it."""

from __future__ import annotations

import argparse
import functools
import os
import threading
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.engine.contestant import claim_output, serve
from benchmarks.engine.measure import Measurement, TokenClock, percentile, rss_bytes
from benchmarks.engine.profile import StepProfile, limits
from benchmarks.engine.workload import Batch, ClosedLoop, Loads, Residents, prompts, zipf_requests
from inference.config import EngineConfig
from inference.engine import Engine, Failure, Output
from inference.lora.files import WEIGHTS_FILE, adapter_digest
from inference.lora.registry import LOADER_THREADS
from inference.protocol import AdapterRef, Generate, Sampling

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from inference.protocol import Chunk


class OurEngine:
    """Workloads on one warm `Engine`; each leaves it idle."""

    def __init__(self, config: EngineConfig) -> None:
        self._engine = Engine(config)
        self._reference = functools.cache(_reference)

    def close(self) -> None:
        self._engine.close()

    def batch(self, **fields: Any) -> Measurement:
        """All requests submitted at once."""
        clock = self._submit_all(Batch(**fields))
        for _ in self._finished(clock):
            pass
        return clock.measurement()

    def profile(self, **fields: Any) -> Measurement:
        """As `batch`; the steps in which every request decodes are taken apart."""
        workload = Batch(**fields)
        clock, profile = self._submit_all(workload), StepProfile()
        waiting = {str(number) for number in range(len(workload.prompts))}
        while not self._engine.is_idle:
            outputs = self._engine.step() if waiting else profile.step(self._engine.step)
            if self._engine.is_stalled:
                time.sleep(0.001)  # adapters are being loaded
            for output in _sound(outputs):
                clock.tokens(output.request_id, len(output.token_ids))
                waiting.discard(output.request_id)
        known = limits(self._engine.architecture, len(workload.prompts))
        files = {Path(folder, WEIGHTS_FILE) for folder in workload.adapters if folder is not None}
        num_bytes = sum(file.stat().st_size for file in files)
        return clock.measurement(**profile.milliseconds(), **known, adapters_mb=num_bytes / 1e6)

    def closed_loop(self, **fields: Any) -> Measurement:
        """Every client submits its next request as soon as its last one is answered."""
        workload = ClosedLoop(**fields)
        for folder in workload.adapters:
            self._reference(folder)  # hashing all of them is the publisher's work, not the loop's
        requests = enumerate(zipf_requests(workload))
        clock = TokenClock()
        in_flight: dict[str, str] = {}  # adapter of each request
        num_adapters = []
        before = self._adapter_work()

        def submit_next() -> None:
            for number, (prompt, folder, new_tokens) in requests:
                in_flight[str(number)] = folder
                self._submit(clock, str(number), prompt, self._reference(folder), new_tokens)
                return

        for _ in range(workload.num_clients):
            submit_next()
        for name in self._finished(clock):
            num_adapters.append(len(set(in_flight.values())))
            del in_flight[name]
            submit_next()
        measured = clock.measurement(adapters_in_flight=fmean(num_adapters))
        done = {name: after - before[name] for name, after in self._adapter_work().items()}
        done["request_ms"] = 1000 * measured.seconds
        each = {name: total / workload.num_requests for name, total in done.items()}
        return replace(measured, extra=measured.extra | each)

    def loads(self, **fields: Any) -> Measurement:
        """Each adapter twice on an idle engine: the first answer waits for its load, the second does not."""
        workload = Loads(**fields)
        differences, clock = [], TokenClock()
        for number, folder in enumerate(workload.adapters):
            adapter = self._reference(folder)
            if workload.from_disk:
                _drop_pages(Path(folder))
            cold, warm = (
                self._first_token(clock, f"{number} {turn}", prompt, adapter)
                for turn, prompt in enumerate(prompts(f"{workload.seed} {number}", 2))
            )
            differences.append(1000 * (cold - warm))
        return clock.measurement(cold_minus_warm_ms=percentile(differences, 50))

    def residents(self, **fields: Any) -> Measurement:
        """How much memory grows while adapters become resident, once all else has reached its full size."""
        workload = Residents(**fields)
        clock = TokenClock()
        self._fill_kv_cache(clock)
        self._activate(clock, workload.warm_up, "warm-up")
        before, resident_before = rss_bytes(), len(self._engine.status().resident_adapters)
        self._activate(clock, workload.adapters, "measured")
        growth = rss_bytes() - before
        num_new = len(self._engine.status().resident_adapters) - resident_before
        if num_new != len(workload.adapters):
            raise RuntimeError(f"{num_new} of {len(workload.adapters)} adapters stayed in the host cache")
        weights = num_new * workload.bytes_per_adapter
        return clock.measurement(registry_overhead=growth / weights - 1)

    def _adapter_work(self) -> dict[str, float]:
        """What was done for adapters since the engine's start."""
        status = self._engine.status()
        loaders = [each.ident for each in threading.enumerate() if each.name.startswith(LOADER_THREADS)]
        clocks = [time.pthread_getcpuclockid(ident) for ident in loaders if ident is not None]
        return {
            "slot_writes": status.adapter_host_hits,
            "adapter_loads": status.adapter_loads,
            "loading_cpu_ms": 1000 * sum(map(time.clock_gettime, clocks)),
        }

    def _activate(self, clock: TokenClock, folders: Sequence[str], seed: str) -> None:
        for number, (folder, prompt) in enumerate(zip(folders, prompts(seed, len(folders)), strict=True)):
            self._first_token(clock, f"{seed} {number}", prompt, self._reference(folder))

    def _fill_kv_cache(self, clock: TokenClock) -> None:
        """Touch every kv_block: pages that were never written are not resident, and would count as growth."""
        size = self._engine.config.kv_block_size
        num_prompts = self._engine.status().kv_blocks_total  # of two blocks each: twice what there is
        for number, prompt in enumerate(prompts("fill", num_prompts, 2 * size - 1)):
            self._submit(clock, f"fill {number}", prompt, None, 1)
        for _ in self._finished(clock):
            pass

    def _first_token(self, clock: TokenClock, name: str, prompt: list[int], adapter: AdapterRef) -> float:
        """Seconds from submission to first token; the engine is idle before and after."""
        self._submit(clock, name, prompt, adapter, 1)
        for _ in self._finished(clock):
            pass
        return clock.last_ttft

    def _submit_all(self, workload: Batch) -> TokenClock:
        adapters = [None if folder is None else self._reference(folder) for folder in workload.adapters]
        clock = TokenClock()
        for number, (prompt, adapter) in enumerate(zip(workload.prompts, adapters, strict=True)):
            self._submit(clock, str(number), prompt, adapter, workload.new_tokens)
        return clock

    def _submit(
        self, clock: TokenClock, name: str, prompt: list[int], adapter: AdapterRef | None, new_tokens: int
    ) -> None:
        sampling = Sampling(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        clock.submit(name)
        self._engine.add(Generate(name, prompt=".", adapter=adapter, sampling=sampling), prompt)

    def _finished(self, clock: TokenClock) -> Iterator[str]:
        """Step until idle, noting tokens; the id of each request that ends."""
        for output in _sound(self._engine.run()):
            clock.tokens(output.request_id, len(output.token_ids))
            if output.finish_reason is not None:
                yield output.request_id


def _sound(outputs: Iterable[Output]) -> Iterator[Chunk]:
    for output in outputs:
        if isinstance(output, Failure):
            raise output.error
        yield output


def _reference(folder: str) -> AdapterRef:
    return AdapterRef(adapter_digest(Path(folder)), folder)


def _drop_pages(folder: Path) -> None:
    """Have the kernel forget what it holds of the files, so that the next read comes from the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # pages that were not written yet are kept
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--kv-budget-bytes", type=int, default=2**30)
    parser.add_argument("--batch-invariant", choices=("yes", "no"), default="no")
    options = parser.parse_args()
    claim_output()
    config = EngineConfig(
        options.model,
        num_threads=options.threads,
        kernels="native",  # what "auto" falls back to is not what is measured here
        batch_invariant=options.batch_invariant == "yes",
        kv_budget_bytes=options.kv_budget_bytes,
        num_adapter_slots=32,
        adapter_budget_bytes=2**30,
    )
    ours = OurEngine(config)
    tasks = {
        "batch": ours.batch,
        "profile": ours.profile,
        "closed_loop": ours.closed_loop,
        "loads": ours.loads,
        "residents": ours.residents,
    }
    try:
        serve({"version": f"torch {torch.__version__}"}, tasks)
    finally:
        ours.close()


if __name__ == "__main__":
    main()
