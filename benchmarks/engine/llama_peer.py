"""llama.cpp as a contestant: its own batched benchmark, which neither samples nor uses HTTP."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from typing import Any

from benchmarks.engine.measure import Measurement
from benchmarks.engine.peer import reserve_stdout, serve
from benchmarks.engine.workload import Batch
from benchmarks.processes import start


class LlamaPeer:
    """Each run is a separate process, which warms up with one uncounted run."""

    def __init__(
        self, program: str, model: str, cache_format: str, threads: int, *, has_flash_attention: bool
    ) -> None:
        """`cache_format`: of keys and values."""
        flash = "on" if has_flash_attention else "off"
        self._command = [program, "-m", model, "-t", str(threads), "-fa", flash, "-b", "2048", "-ub", "512"]
        self._command += ["-ctk", cache_format, "-ctv", cache_format, "--output-format", "jsonl"]

    def batch(self, **fields: Any) -> Measurement:
        """Prompts are random tokens chosen by llama.cpp, in the number and length of ours."""
        workload = Batch(**fields)
        if any(folder is not None for folder in workload.adapters):
            raise ValueError("llama.cpp cannot mix adapters in a batch")
        count, steps = len(workload.prompts), workload.new_tokens - 1  # the prompts yield the first token
        length = len(workload.prompts[0])
        context = max(8192, count * (length + workload.new_tokens))
        shape = ["-npp", str(length), "-ntg", str(steps), "-npl", f"{count},{count}", "-c", str(context)]
        output, peak = _run([*self._command, *shape])
        rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
        if len(rows) != 2:
            raise ValueError(f"expected two runs, not {rows}")
        return Measurement(
            seconds=rows[-1]["t"],
            num_tokens=count * workload.new_tokens,
            ttft_seconds=[rows[-1]["t_pp"]] * count,
            itl_seconds=[rows[-1]["t_tg"] / steps],  # only the mean is reported
            rss_bytes=peak,
            peak_rss_bytes=peak,
        )


def _run(command: list[str]) -> tuple[str, int]:
    """Run the program; its standard output and peak memory in bytes. Raises `OSError` if it fails."""
    with start(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None  # noqa: S101 - `Popen` was given a pipe
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise OSError(f"{command[0]} exited with status {process.returncode}")
    return output, usage.ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True, help="GGUF")
    parser.add_argument("--cache-format", choices=("bf16", "f16"), required=True, help="of keys and values")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--flash-attention", action="store_true")
    options = parser.parse_args()
    reserve_stdout()
    peer = LlamaPeer(
        options.program,
        options.model,
        options.cache_format,
        options.threads,
        has_flash_attention=options.flash_attention,
    )
    serve({"version": "llama.cpp"}, {"batch": peer.batch})


if __name__ == "__main__":
    main()
