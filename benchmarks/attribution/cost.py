"""Measures what attribution costs serving: the engine's processor time for answers with and without the
vectors that methods read, and that of the gradients of the same answers.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

from benchmarks.attribution.retrain import make_model, midway_file
from benchmarks.attribution.signals import published_adapter
from inference.outputs import Failure
from inference.protocol import Generate, Sampling
from workers.training.gradients import sketch_row_gradients
from workers.training.index import load_adapter, open_engine
from workers.training.rows import IGNORED, Example, last_answer
from workers.training.sketch import PartSketch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.attribution.study import Plan
    from inference.engine import Engine
    from inference.protocol import AdapterRef
    from workers.training.progress import Emit

NUM_ANSWERS = 32
NUM_TOKENS = 32
NUM_ROUNDS = 5


def serving_costs(plan: Plan, emit: Emit) -> dict[str, float]:
    """Shares of throughput that are lost on one processor: `serving_cost_paid` to the vectors of the answers,
    `serving_cost_stage` to their gradients. Errors: `FileNotFoundError` before the reference is trained.
    """
    adapter = published_adapter(plan.reference)
    prompts = [last_answer(row)[0] for row in plan.study.rows[:NUM_ANSWERS]]
    plain: list[list[float]] = []
    probed: list[list[float]] = []
    with open_engine(plan.base.folder, plan.num_threads) as engine:
        answers, _ = _serve(engine, adapter, prompts, probes=True)  # warms up
        for _ in range(NUM_ROUNDS):
            plain.append(_serve(engine, adapter, prompts, probes=False)[1])
            probed.append(_serve(engine, adapter, prompts, probes=True)[1])
    with_probes = _seconds(probed)
    gradients = _gradient_seconds(plan, prompts, answers, emit)
    return {
        "serving_cost_paid": 1 - _seconds(plain) / with_probes,
        "serving_cost_stage": gradients / (with_probes + gradients),
    }


def _seconds(rounds: Sequence[Sequence[float]]) -> float:
    """The sum of each step's median over `rounds`: other processes disturb that less than whole rounds."""
    return float(sum(statistics.median(step) for step in zip(*rounds, strict=True)))


def _serve(
    engine: Engine, adapter: AdapterRef, prompts: Sequence[Sequence[int]], *, probes: bool
) -> tuple[list[list[int]], list[float]]:
    """(answers of `NUM_TOKENS` tokens, processor seconds of each step)."""
    sampling = Sampling(max_tokens=NUM_TOKENS, temperature=0, ignore_eos=True)
    for number, prompt in enumerate(prompts):
        request = Generate(str(number), adapter=adapter, sampling=sampling, probe=probes, probe_error=probes)
        engine.add(request, prompt)
    answers: list[list[int]] = [[] for _ in prompts]
    seconds = []
    while not engine.is_idle:
        began = time.process_time()
        outputs = engine.step()
        seconds.append(time.process_time() - began)
        if engine.is_stalled:  # the adapter loads
            time.sleep(0.01)
        for output in outputs:
            if isinstance(output, Failure):
                raise output.error
            answers[int(output.request_id)] += output.token_ids
    return answers, seconds


def _gradient_seconds(
    plan: Plan, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], emit: Emit
) -> float:
    model = make_model(plan.base)
    load_adapter(model, midway_file(plan.work).read_bytes())
    rows = [
        Example(0, "", (*prompt, *answer), (*(IGNORED for _ in prompt), *answer))
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    sketch = PartSketch(model.config.num_hidden_layers)
    for _ in sketch_row_gradients(model, rows[:1], plan.study.preamble, sketch, emit):  # draws its tables
        pass
    began = time.process_time()
    for _ in sketch_row_gradients(model, rows, plan.study.preamble, sketch, emit):
        pass
    return time.process_time() - began
