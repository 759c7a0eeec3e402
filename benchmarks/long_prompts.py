"""Measures how long a short prompt waits for a long one: `python -m benchmarks.long_prompts [--json]`.

The short prompt arrives when about a quarter of the long one is computed. Times are processor time of one
thread until the first token, so that other work on the machine does not count; medians of the repeats.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.engine.workload import prompts
from benchmarks.model_options import add_model_options, model_of
from inference.config import EngineConfig
from inference.engine import Engine
from inference.outputs import Failure
from inference.protocol import Generate, Sampling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONG, SHORT = "long", "short"
ROWS = {f"{LONG}_alone": (LONG,), f"{SHORT}_alone": (SHORT,), "together": (LONG, SHORT)}


def first_tokens(engine: Engine, prompt_by_name: Mapping[str, list[int]]) -> dict[str, float]:
    """Milliseconds of processor time from the arrival of each prompt to its first token."""
    began_at: dict[str, float] = {}
    ms_by_name: dict[str, float] = {}
    late = round(len(prompt_by_name.get(LONG, ())) / (4 * engine.config.max_step_tokens))  # steps
    for number in itertools.count():
        for name, prompt in prompt_by_name.items():
            if name not in began_at and (name == LONG or number >= late):
                began_at[name] = time.process_time()
                sampling = Sampling(max_tokens=1, ignore_eos=True)
                engine.add(Generate(name, prompt=".", sampling=sampling), prompt)
        for output in engine.step():
            if isinstance(output, Failure):
                raise output.error
            name = output.request_id
            ms_by_name[name] = 1000 * (time.process_time() - began_at[name])
        if len(ms_by_name) == len(prompt_by_name):
            break
    return ms_by_name


def measure(engine: Engine, length_by_name: Mapping[str, int], repeats: int) -> dict[str, dict[str, float]]:
    """The times of each row, after a repeat that warms up."""
    runs: dict[str, list[dict[str, float]]] = {row: [] for row in ROWS}
    for repeat, (row, names) in itertools.product(range(repeats + 1), ROWS.items()):
        fresh = {name: prompts(f"{repeat} {row} {name}", 1, length_by_name[name])[0] for name in names}
        runs[row].append(first_tokens(engine, fresh))
    return {
        row: {name: round(median(run[name] for run in timed[1:]), 1) for name in ROWS[row]}
        for row, timed in runs.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add_model_options(parser)
    parser.add_argument("--long", type=int, default=4_000, help="tokens of the long prompt; default: 4000")
    parser.add_argument("--short", type=int, default=32, help="tokens of the short prompt; default: 32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    engine = Engine(EngineConfig(model_of(options), num_threads=1))
    try:
        rows = measure(engine, {LONG: options.long, SHORT: options.short}, options.repeats)
    finally:
        engine.close()
    if options.json:
        print(json.dumps({"first_token_ms": rows}))
        return
    for row, times in rows.items():
        print(f"{row:12}", *(f"{name} {ms:10,.1f} ms" for name, ms in times.items()), sep="  ")


if __name__ == "__main__":
    main()
