"""Our engine as a contestant; started by `python -m benchmarks.engine`."""

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

from benchmarks.engine.measure import Measurement, TokenClock, percentile, rss_bytes
from benchmarks.engine.peer import reserve_stdout, serve
from benchmarks.engine.profile import StepProfile, limits
from benchmarks.engine.workload import (
    Batch,
    Chat,
    ClosedLoop,
    Loads,
    Residents,
    Texts,
    prompts,
    zipf_requests,
)
from inference.config import EngineConfig
from inference.engine import Engine
from inference.lora.files import WEIGHTS_FILE, adapter_digest
from inference.lora.registry import LOADER_THREADS
from inference.outputs import Failure, Output
from inference.protocol import AdapterRef, Generate, Message, Sampling

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from inference.protocol import Chunk


class OurEngine:
    """Runs workloads on one `Engine`. Each workload ends with the engine idle."""

    def __init__(self, config: EngineConfig) -> None:
        self._engine = Engine(config)
        self._reference = functools.cache(_reference)

    def close(self) -> None:
        self._engine.close()

    def batch(self, **fields: Any) -> Measurement:
        """Submit all requests at once and run them."""
        clock = self._submit_all(Batch(**fields))
        for _ in self._finished(clock):
            pass
        return clock.measurement()

    def texts(self, **fields: Any) -> Measurement:
        """Answer all messages at once."""
        workload, clock, engine = Texts(**fields), TokenClock(), self._engine
        before = engine.status()
        cpu_began = time.process_time()
        for number, text in enumerate(workload.messages):
            sampling = Sampling(
                max_tokens=workload.new_tokens,
                temperature=workload.temperature,
                seed=number,
                ignore_eos=True,
            )
            clock.submit(str(number))
            engine.add(Generate(str(number), messages=(Message("user", text),), sampling=sampling))
        for _ in self._finished(clock):
            pass
        after = engine.status()
        return clock.measurement(
            cpu_seconds=time.process_time() - cpu_began,
            proposed_tokens=after.num_proposed_tokens - before.num_proposed_tokens,
            accepted_tokens=after.num_accepted_tokens - before.num_accepted_tokens,
        )

    def chat(self, **fields: Any) -> Measurement:
        """Run all turns, one after the other."""
        workload, clock, before = Chat(**fields), TokenClock(), self._engine.status()
        said: list[list[int]] = [[] for _ in range(workload.num_chats)]
        for turn in range(workload.num_turns):
            seed = f"{workload.seed} {turn}"
            questions = prompts(seed, workload.num_chats, workload.question_tokens)
            for number, question in enumerate(questions):
                said[number] += question
                self._submit(clock, f"{turn} {number}", [*said[number]], None, workload.new_tokens)
            for chunk in _chunks(self._engine.run()):
                clock.tokens(chunk.request_id, len(chunk.token_ids))
                said[int(chunk.request_id.split()[1])] += chunk.token_ids
        after = self._engine.status()
        hits = after.prefix_cache_hits - before.prefix_cache_hits
        return clock.measurement(
            last_first_token_ms=1000 * clock.last_ttft,
            cached_share=hits / max(1, after.prefix_cache_queries - before.prefix_cache_queries),
        )

    def profile(self, **fields: Any) -> Measurement:
        """Like `batch`, with a profile of the steps in which every request decodes."""
        workload = Batch(**fields)
        clock, profile = self._submit_all(workload), StepProfile()
        waiting = {str(number) for number in range(len(workload.prompts))}
        while not self._engine.is_idle:
            outputs = self._engine.step() if waiting else profile.step(self._engine.step)
            if self._engine.is_stalled:
                time.sleep(0.001)  # adapters are loading
            for output in _chunks(outputs):
                clock.tokens(output.request_id, len(output.token_ids))
                waiting.discard(output.request_id)
        known = limits(self._engine.architecture, len(workload.prompts))
        files = {Path(folder, WEIGHTS_FILE) for folder in workload.adapters if folder is not None}
        adapters_mb = sum(file.stat().st_size for file in files) / 1e6
        times = profile.milliseconds()
        limit_ms = known["products_alone_ms"] + adapters_mb / known["read_gb_s"]
        return clock.measurement(
            **times, **known, adapters_mb=adapters_mb, limit_fraction=limit_ms / times["step_ms"]
        )

    def closed_loop(self, **fields: Any) -> Measurement:
        """Run `num_clients` clients; each submits its next request when its last one is answered. All send
        their first one at once to an idle engine, so it has no time to first token.
        """
        workload = ClosedLoop(**fields)
        for folder in workload.adapters:
            self._reference(folder)  # hash all adapters before the clock starts
        requests = enumerate(zipf_requests(workload))
        clock = TokenClock()
        in_flight: dict[str, str] = {}  # adapter by request id
        num_adapters = []
        before = self._adapter_work()

        def submit_next() -> None:
            for number, (prompt, folder, new_tokens) in requests:
                in_flight[str(number)] = folder
                is_first = number < workload.num_clients
                adapter = self._reference(folder)
                self._submit(clock, str(number), prompt, adapter, new_tokens, is_timed=not is_first)
                return

        for _ in range(workload.num_clients):
            submit_next()
        for name in self._finished(clock):
            num_adapters.append(len(set(in_flight.values())))
            del in_flight[name]
            submit_next()
        measured = clock.measurement(adapters_in_flight=fmean(num_adapters))
        work = {name: after - before[name] for name, after in self._adapter_work().items()}
        work["request_ms"] = 1000 * measured.seconds
        per_request = {name: total / workload.num_requests for name, total in work.items()}
        return replace(measured, extra=measured.extra | per_request)

    def loads(self, **fields: Any) -> Measurement:
        """Request each adapter twice on an idle engine: the first request waits for its load."""
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
        """Measure the growth of memory while adapters become resident, after all buffers are full size."""
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
        """Work done for adapters since the engine started."""
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
        """Write every kv_block. Memory pages that were never written are not resident, and would count as
        growth later.
        """
        size = self._engine.config.kv_block_size
        num_prompts = self._engine.status().kv_blocks_total  # two blocks per prompt: twice the total
        for number, prompt in enumerate(prompts("fill", num_prompts, 2 * size - 1)):
            self._submit(clock, f"fill {number}", prompt, None, 1)
        for _ in self._finished(clock):
            pass

    def _first_token(self, clock: TokenClock, name: str, prompt: list[int], adapter: AdapterRef) -> float:
        """Seconds from submission to first token of one request on an idle engine."""
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
        self,
        clock: TokenClock,
        name: str,
        prompt: list[int],
        adapter: AdapterRef | None,
        new_tokens: int,
        *,
        is_timed: bool = True,
    ) -> None:
        sampling = Sampling(max_tokens=new_tokens, temperature=0.0, ignore_eos=True)
        clock.submit(name, is_timed=is_timed)
        self._engine.add(Generate(name, prompt=".", adapter=adapter, sampling=sampling), prompt)

    def _finished(self, clock: TokenClock) -> Iterator[str]:
        """Step until idle and record tokens; yields the id of each request that ends."""
        for output in _chunks(self._engine.run()):
            clock.tokens(output.request_id, len(output.token_ids))
            if output.finish_reason is not None:
                yield output.request_id


def _chunks(outputs: Iterable[Output]) -> Iterator[Chunk]:
    """The chunks in `outputs`. Raises the error of a request that failed."""
    for output in outputs:
        if isinstance(output, Failure):
            raise output.error
        yield output


def _reference(folder: str) -> AdapterRef:
    return AdapterRef(adapter_digest(Path(folder)), folder)


def _drop_pages(folder: Path) -> None:
    """Drop the files from the page cache, so that the next read comes from the disk."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())  # dirty pages are not dropped
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--kv-budget-bytes", type=int, default=2**30)
    parser.add_argument("--batch-invariant", choices=("yes", "no"), default="no")
    parser.add_argument("--quantization", choices=("none", "int8"), default="none")
    parser.add_argument("--prefix-sharing", choices=("off", "payer"), default="payer")
    # Answers to random tokens fall into repetition, which would make every row but those of lookup too fast.
    parser.add_argument("--prompt-lookup", choices=("yes", "no"), default="no")
    parser.add_argument("--max-running", type=int, default=32)
    parser.add_argument("--num-adapter-slots", type=int, default=32)
    parser.add_argument("--num-adapter-rows", type=int, default=1024)
    parser.add_argument("--adapter-budget-bytes", type=int, default=2**30)
    options = parser.parse_args()
    reserve_stdout()
    config = EngineConfig(
        options.model,
        num_threads=options.threads,
        quantization=options.quantization,
        kernels="native",  # "auto" could fall back to portable kernels
        batch_invariant=options.batch_invariant == "yes",
        kv_budget_bytes=options.kv_budget_bytes,
        prompt_lookup=options.prompt_lookup == "yes",
        prefix_sharing=options.prefix_sharing,
        max_running=options.max_running,
        num_adapter_slots=options.num_adapter_slots,
        num_adapter_rows=options.num_adapter_rows,
        adapter_budget_bytes=options.adapter_budget_bytes,
    )
    ours = OurEngine(config)
    tasks = {
        "batch": ours.batch,
        "texts": ours.texts,
        "chat": ours.chat,
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
