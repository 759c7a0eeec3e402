"""Starts the contestants, each with the settings that are best for it."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from backend.engine.process import waiting_policy
from benchmarks import peers
from benchmarks.engine.contestant import Contestant

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

OURS = "loraledger"
INVARIANT = "loraledger batch-invariant"
INT8 = "loraledger int8"
VLLM = "vllm"
VLLM_EAGER = "vllm eager"
VLLM_BASE = "vllm without LoRA"
PEFT = "peft"
LLAMA = "llama.cpp"
LLAMA_F16 = "llama.cpp f16"
LLAMA_Q8 = "llama.cpp q8_0"

_VLLM_OPTIONS = {VLLM: (), VLLM_EAGER: ("--eager",), VLLM_BASE: ("--no-lora",)}

# The settings of each contestant, with reasons; the report prints them.
SETTINGS = {
    OURS: "bf16, native kernels, 32 slots, 1 GiB for adapters, 1 GiB for keys and values, "
    "no prompt lookup except in its own rows, threads that wait as in an installation",
    INVARIANT: "as loraledger, with `--batch-invariant`",
    INT8: "as loraledger, with `--quantization int8`: base model and adapters",
    VLLM: "bf16, compiled, max_loras=32, max_num_seqs=32, 1 GiB for keys and values, threads bound to cores, "
    "Intel's OpenMP preloaded, engine in the measured process, no prefix cache (no prompt shares a prefix)",
    VLLM_EAGER: "as vllm, without torch.compile; which of the two is faster with LoRA depends on the CPU",
    VLLM_BASE: "as vllm, without LoRA, which slows the base model down when enabled",
    PEFT: "bf16 with adapters widened to fp32 (PEFT's default, faster than bf16), SDPA attention, "
    "dynamic cache",
    LLAMA: "bf16 GGUF, built for this CPU, flash attention on, keys and values in bf16 (faster than fp16), "
    "-b 2048 -ub 512; random tokens, no sampling",
    LLAMA_F16: "as llama.cpp, with weights, keys and values in fp16",
    LLAMA_Q8: "as llama.cpp, with weights in Q8_0, keys and values in fp16",
}
# The formats of the weights, and of keys and values.
_LLAMA_FORMATS = {LLAMA: ("bf16", "bf16"), LLAMA_F16: ("f16", "f16"), LLAMA_Q8: ("q8_0", "f16")}


class Launcher:
    """Starts contestants on first use. A context manager that stops them all."""

    def __init__(self, model: Path, num_threads: int, logs: Path) -> None:
        self._model = model.resolve()
        self._num_threads = num_threads
        self._logs = logs
        self._started: dict[str, Contestant] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def contestant(self, name: str, **options: str) -> Contestant:
        """The running contestant `name`, started if necessary. Raises `ContestantError`.

        Names that begin with `OURS` are separate processes of our engine, each with its own `options`.
        """
        if name not in self._started:
            command, environment = self._command(name)
            command += [part for key, value in options.items() for part in (f"--{key}", value)]
            log = self._logs / f"{name.replace(' ', '-')}.log"
            threads = {"OMP_NUM_THREADS": str(self._num_threads)}
            opened = Contestant(name, command, log, {**threads, **environment})
            self._started[name] = self._stack.enter_context(opened)
        return self._started[name]

    def close(self) -> None:
        """Stop all contestants. They are started again on their next use."""
        self._started.clear()
        self._stack.close()

    @property
    def versions(self) -> dict[str, str]:
        return {name: contestant.settings["version"] for name, contestant in self._started.items()}

    def _command(self, name: str) -> tuple[list[str], Mapping[str, str]]:
        model, threads = ["--model", str(self._model)], ["--threads", str(self._num_threads)]
        python = [sys.executable, "-m"]
        if name in _VLLM_OPTIONS:
            vllm = [str(peers.VLLM_PYTHON), "-m", "benchmarks.engine.vllm_peer"]
            return [*vllm, *model, *_VLLM_OPTIONS[name]], self._for_vllm()
        if name == PEFT:
            return [*python, "benchmarks.engine.peft_peer", *model, *threads], {}
        if name in _LLAMA_FORMATS:
            program = ["--program", str(peers.LLAMA_BENCH), "--flash-attention"]
            weights, cache = _LLAMA_FORMATS[name]
            gguf = ["--model", str(peers.gguf(self._model, weights)), "--cache-format", cache]
            return [*python, "benchmarks.engine.llama_peer", *program, *gguf, *threads], {}
        return [*python, "benchmarks.engine.ours", *model, *threads], waiting_policy()

    def _for_vllm(self) -> dict[str, str]:
        cores = sorted(os.sched_getaffinity(0))[: self._num_threads]
        return {
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # a separate process would poll between runs
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "LD_PRELOAD": str(peers.VLLM_OPENMP),
        }
