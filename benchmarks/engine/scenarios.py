"""Runs the scenarios: each on all its contestants in turn, warmed up, with repeats.

Only one contestant computes at a time. Every second repeat runs the contestants in reverse order, so that a
machine that becomes slower or faster over time favours none.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks.engine.adapters import num_weight_bytes
from benchmarks.engine.launcher import (
    INT8,
    INVARIANT,
    LLAMA,
    LLAMA_F16,
    LLAMA_Q8,
    OURS,
    PEFT,
    VLLM,
    VLLM_BASE,
    VLLM_EAGER,
)
from benchmarks.engine.own_scenarios import (
    RANKS,
    SIZES,
    OwnScenario,
    chat_scenarios,
    lookup_scenarios,
    rank_scenarios,
    size_scenarios,
)
from benchmarks.engine.shapes import SHAPES
from benchmarks.engine.workload import NUM_PROMPTS, Batch, ClosedLoop, Loads, Residents, prompts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from benchmarks.engine.contestant import Run
    from benchmarks.engine.launcher import Launcher
    from benchmarks.engine.shapes import Shape

ZIPF_REQUESTS = 3_000
ZIPF_WARM_UP = 500
ZIPF_TURN = 250  # requests: about ten seconds, over which the speed of a shared machine varies little
NUM_ADAPTERS = 1_000
FEW_ADAPTERS = 5
NUM_LOADS = 10
NUM_WARM_UP = 40  # more than the number of slots, so that every slot is written
NUM_RESIDENTS = 120

PREFILL_LENGTHS = (256, 1_000, 4_000)
NUM_LONG_PROMPTS = 4
MAX_LLAMA_PREFILL = 1_000  # four prompts of 4,000 tokens take llama.cpp minutes
PREFILL_NEW_TOKENS = 2  # llama.cpp's benchmark computes at least one step after the prompts

GROUPS = (
    *("batch", "prompts", "profile", "zipf", "cold", "registry"),
    *("shapes", "lookup", "chat", "sizes", "ranks"),
)
_OWN_SCENARIOS = ("base", "lora32")

T = TypeVar("T")
Entry = tuple[str, str]  # contestant, scenario


@dataclass(slots=True)
class Results:
    """Runs by contestant and scenario, in the order of the repeats."""

    runs: dict[Entry, list[Run]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    def add(self, contestant: str, scenario: str, run: Run) -> None:
        self.runs.setdefault((contestant, scenario), []).append(run)


@dataclass(frozen=True, slots=True)
class Suite:
    """Runs groups of scenarios. `adapters` has at least as many folders as `num_adapters` returns, and
    `make_ranked` returns as many folders of a rank as a batch has prompts.
    """

    launcher: Launcher
    model: Path
    adapters: Sequence[str]
    num_repeats: int
    has_peers: bool
    results: Results
    on_run: Callable[[str], None]
    make_shape: Callable[[str], Shape]
    make_ranked: Callable[[int], list[str]]

    def run(self, groups: Sequence[str]) -> Results:
        """Run `groups` in order. Raises `ContestantError`."""
        run_group: dict[str, Callable[[], None]] = {
            "batch": self._batch,
            "prompts": self._prompts,
            "profile": self._profile,
            "zipf": self._zipf,
            "cold": self._cold,
            "registry": self._registry,
            "shapes": self._shapes,
            "lookup": lambda: self._own(lookup_scenarios()),
            "chat": lambda: self._own(chat_scenarios()),
            "sizes": lambda: self._own(size_scenarios(self.adapters)),
            "ranks": lambda: self._own(rank_scenarios({rank: self.make_ranked(rank) for rank in RANKS})),
        }
        for group in groups:
            run_group[group]()
            self.results.versions |= self.launcher.versions
            self.launcher.close()
        return self.results

    def _batch(self) -> None:
        """32 prompts at once: without adapter, with one adapter for all, and with one adapter each."""
        adapters = self._by_scenario()
        entries = batch_entries(has_peers=self.has_peers)
        self.launcher.contestant(INVARIANT, **{"batch-invariant": "yes"})
        self.launcher.contestant(INT8, quantization="int8")
        for name, scenario in entries:
            self._measure(name, "batch", Batch(prompts("warm-up"), adapters[scenario]))
        for repeat in range(self.num_repeats):
            for name, scenario in in_turn(entries, repeat):
                workload = Batch(prompts(f"repeat {repeat}"), adapters[scenario])
                self.results.add(name, scenario, self._measure(name, "batch", workload))

    def _prompts(self) -> None:
        """Long prompts without an adapter, all submitted at once."""
        entries = prompt_entries(has_peers=self.has_peers)
        for repeat in range(-1, self.num_repeats):
            for name, scenario in in_turn(entries, repeat + 1):
                length = int(scenario.removeprefix("prefill"))
                texts = prompts(f"{scenario} {repeat}", NUM_LONG_PROMPTS, length)
                run = self._measure(
                    name, "batch", Batch(texts, [None] * NUM_LONG_PROMPTS, PREFILL_NEW_TOKENS)
                )
                if repeat >= 0:  # the first turn warms up
                    self.results.add(name, scenario, with_prompt_speed(run, NUM_LONG_PROMPTS * length))

    def _profile(self) -> None:
        """Profile a step of our engine for each kind of batch."""
        adapters = self._by_scenario()
        for repeat in range(self.num_repeats):
            for scenario in in_turn([*adapters], repeat):
                workload = Batch(prompts(f"profile {repeat}"), adapters[scenario])
                self.results.add(OURS, f"profile_{scenario}", self._measure(OURS, "profile", workload))

    def _by_scenario(self) -> dict[str, list[str | None]]:
        return {
            "base": [None] * NUM_PROMPTS,
            "lora1": [self.adapters[0]] * NUM_PROMPTS,
            "lora32": [*self.adapters[:NUM_PROMPTS]],
        }

    def _zipf(self) -> None:
        """Many adapters against few, each set in a separate engine, at least `ZIPF_REQUESTS` per set."""
        sets = {"zipf5": [*self.adapters[:FEW_ADAPTERS]], "zipf1000": [*self.adapters[:NUM_ADAPTERS]]}
        for name, adapters in sets.items():
            self._measure(f"{OURS} {name}", "closed_loop", ClosedLoop(adapters, ZIPF_WARM_UP, seed=-1))
        for turn in range(num_zipf_turns(self.num_repeats)):
            for name in in_turn([*sets], turn):
                workload = ClosedLoop(sets[name], ZIPF_TURN, seed=turn)
                self.results.add(OURS, name, self._measure(f"{OURS} {name}", "closed_loop", workload))

    def _cold(self) -> None:
        """Loads from the page cache and from the disk; no adapter is loaded twice."""
        name = f"{OURS} cold"
        fresh = iter(self.adapters)
        self._measure(name, "loads", Loads([next(fresh)], "warm-up"))
        for repeat in range(self.num_repeats):
            for scenario in in_turn(["cold", "cold_from_disk"], repeat):
                adapters = [next(fresh) for _ in range(NUM_LOADS)]
                workload = Loads(adapters, f"{scenario} {repeat}", from_disk=scenario == "cold_from_disk")
                self.results.add(OURS, scenario, self._measure(name, "loads", workload))

    def _registry(self) -> None:
        """Memory of resident adapters. Each repeat has a new process, because memory does not shrink back."""
        workload = Residents(
            warm_up=[*self.adapters[:NUM_WARM_UP]],
            adapters=[*self.adapters[NUM_WARM_UP : NUM_WARM_UP + NUM_RESIDENTS]],
            bytes_per_adapter=num_weight_bytes(self.model),
        )
        for _ in range(self.num_repeats):
            name = f"{OURS} residents"
            self.launcher.contestant(name, **{"kv-budget-bytes": str(64 * 2**20)})
            self.results.add(OURS, "residents", self._measure(name, "residents", workload))
            self.launcher.close()

    def _shapes(self) -> None:
        """The batch on larger models, each in a process of its own: two would not fit into small memories."""
        for name in SHAPES:
            shape = self.make_shape(name)
            adapters: dict[str, list[str | None]] = {"base": [None] * NUM_PROMPTS}
            adapters["lora32"] = [*shape.adapters]
            self._batches(f"{OURS} {name}", adapters, model=shape.model)

    def _own(self, scenarios: Sequence[OwnScenario]) -> None:
        """Run scenarios of our engine in turn; the first turn warms up."""
        for each in scenarios:
            self.launcher.contestant(each.contestant, **each.options)
        for repeat in range(-1, self.num_repeats):
            for each in in_turn(scenarios, repeat + 1):
                run = self._measure(each.contestant, each.task, each.workload(repeat))
                if repeat >= 0:
                    self.results.add(each.contestant, each.name, run)

    def _batches(self, name: str, adapters: Mapping[str, list[str | None]], **options: str) -> None:
        """Measure one contestant alone, warmed up, and stop it."""
        self.launcher.contestant(name, **options)
        for scenario in _OWN_SCENARIOS:
            self._measure(name, "batch", Batch(prompts("warm-up"), adapters[scenario]))
        for repeat in range(self.num_repeats):
            for scenario in in_turn(_OWN_SCENARIOS, repeat):
                workload = Batch(prompts(f"repeat {repeat}"), adapters[scenario])
                self.results.add(name, scenario, self._measure(name, "batch", workload))
        self.results.versions |= self.launcher.versions
        self.launcher.close()

    def _measure(self, name: str, task: str, workload: Any) -> Run:
        self.on_run(name)
        return self.launcher.contestant(name).run(task, workload)


def batch_entries(*, has_peers: bool) -> list[Entry]:
    """The contestants of each batch scenario."""
    ours = [(OURS, "lora1"), *itertools.product((OURS, INVARIANT, INT8), _OWN_SCENARIOS)]
    vllm = [(name, scenario) for name in (VLLM, VLLM_EAGER) for scenario in ("lora1", "lora32")]
    llama = [(name, "base") for name in (LLAMA, LLAMA_F16, LLAMA_Q8)]
    theirs = [*vllm, (VLLM_BASE, "base"), (PEFT, "lora32"), *llama]
    return ours + [entry for entry in theirs if has_peers]


def prompt_entries(*, has_peers: bool) -> list[Entry]:
    """The contestants of each length of prompts."""
    names = (OURS, VLLM_BASE, LLAMA, LLAMA_F16) if has_peers else (OURS,)
    return [
        (name, f"prefill{length}")
        for length in PREFILL_LENGTHS
        for name in names
        if name not in (LLAMA, LLAMA_F16) or length <= MAX_LLAMA_PREFILL
    ]


def with_prompt_speed(run: Run, num_prompt_tokens: int) -> Run:
    """`run` with the speed of its prompts, until the last of them has its first token."""
    speed = num_prompt_tokens / max(run.measurement.ttft_seconds)
    extra = run.measurement.extra | {"prompt_tokens_per_second": speed}
    return replace(run, measurement=replace(run.measurement, extra=extra))


def in_turn(entries: Sequence[T], repeat: int) -> Sequence[T]:
    """`entries`, reversed in every second repeat."""
    return entries if repeat % 2 == 0 else entries[::-1]


def num_zipf_turns(num_repeats: int) -> int:
    """Number of turns of each set of adapters."""
    return max(num_repeats, math.ceil(ZIPF_REQUESTS / ZIPF_TURN))


def num_adapters(groups: Sequence[str], num_repeats: int) -> int:
    """Number of adapters that the groups need."""
    needed = {
        "batch": NUM_PROMPTS,
        "prompts": 0,
        "profile": NUM_PROMPTS,
        "zipf": NUM_ADAPTERS,
        "cold": 1 + 2 * NUM_LOADS * num_repeats,
        "registry": NUM_WARM_UP + NUM_RESIDENTS,
        "shapes": 0,  # they have adapters of their own
        "lookup": 0,
        "chat": 0,
        "sizes": max(SIZES),
        "ranks": 0,
    }
    return max(needed[group] for group in groups)


def num_runs(groups: Sequence[str], num_repeats: int, *, has_peers: bool) -> int:
    """Number of runs, warm-ups included."""
    batch = len(batch_entries(has_peers=has_peers))
    needed = {
        "batch": batch * (num_repeats + 1),
        "prompts": len(prompt_entries(has_peers=has_peers)) * (num_repeats + 1),
        "profile": 3 * num_repeats,
        "zipf": 2 * (num_zipf_turns(num_repeats) + 1),
        "cold": 1 + 2 * num_repeats,
        "registry": num_repeats,
        "shapes": len(SHAPES) * len(_OWN_SCENARIOS) * (num_repeats + 1),
        "lookup": len(lookup_scenarios()) * (num_repeats + 1),
        "chat": len(chat_scenarios()) * (num_repeats + 1),
        "sizes": 2 * len(SIZES) * (num_repeats + 1),
        "ranks": (len(RANKS) + 1) * (num_repeats + 1),
    }
    return sum(needed[group] for group in groups)
