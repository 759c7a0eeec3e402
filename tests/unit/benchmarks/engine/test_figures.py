"""Rows and ratios of made-up runs."""

from __future__ import annotations

import pytest

from benchmarks.engine.contestant import Run
from benchmarks.engine.figures import is_quiet, ratios, row
from benchmarks.engine.launcher import (
    INT8,
    LLAMA,
    LLAMA_F16,
    LLAMA_Q8,
    OURS,
    PEFT,
    VLLM,
    VLLM_BASE,
    VLLM_EAGER,
)
from benchmarks.engine.measure import Measurement
from benchmarks.engine.own_scenarios import LOOKUP, WITHOUT_LOOKUP
from benchmarks.engine.scenarios import Results


def run(speed: float = 1.0, *, ttft: float = 0.1, foreign: float = 0.0, disk: int = 0, **extra: float) -> Run:
    measured = Measurement(1.0, int(1000 * speed), [ttft] * 4, [0.01, 0.02], 2**20, 2**21, extra)
    return Run(measured, foreign, disk)


def played(**runs: list[Run]) -> Results:
    """`ours_base=[...]`: runs by contestant and scenario."""
    names = {"ours": OURS, "vllm": VLLM, "eager": VLLM_EAGER, "dense": VLLM_BASE}
    names |= {"peft": PEFT, "llama": LLAMA, "half": LLAMA_F16}
    split = {key: key.split("_") for key in runs}
    return Results({(names[split[key][0]], split[key][1]): value for key, value in runs.items()})


def test_a_ratio_is_the_median_over_runs_of_the_same_repeat() -> None:
    ours = [run(3.0), run(1.5), run(3.0)]  # the machine was half as fast during the second repeat
    theirs = [run(1.0), run(0.5), run(2.0)]
    found = ratios(played(ours_lora32=ours, vllm_lora32=theirs))["lora32_vs_vllm"]
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((3.0, 1.5, 3.0))


@pytest.mark.parametrize(("compiled", "eager"), [(2.0, 1.0), (1.0, 2.0)])
def test_of_two_settings_of_a_peer_the_faster_counts(compiled: float, eager: float) -> None:
    runs = played(ours_lora32=[run(6.0)], vllm_lora32=[run(compiled)], eager_lora32=[run(eager)])
    found = ratios(runs)["lora32_vs_vllm"]
    assert found is not None
    assert found.value == pytest.approx(3.0)


def test_a_scenario_that_was_not_run_has_no_ratio() -> None:
    found = ratios(played(ours_base=[run()], ours_lora32=[run(0.8)]))
    assert found["lora32_vs_base"] is not None
    assert [name for name, ratio in found.items() if ratio is not None] == ["lora32_vs_base"]


def test_every_bar_has_its_ratio() -> None:
    extra = {"cold_minus_warm_ms": 12.0, "registry_overhead": 0.01, "limit_fraction": 0.7}
    names = ("ours_base", "ours_lora1", "ours_lora32", "vllm_lora32", "peft_lora32", "llama_base")
    rest = ("ours_zipf5", "ours_zipf1000", "ours_cold", "ours_residents", "dense_base")
    prompts = ("ours_prefill1000", "dense_prefill1000", "llama_prefill1000")
    runs = played(**{name: [run(**extra)] for name in (*names, *rest, *prompts)})
    runs.runs |= {(name, "base"): [run()] for name in (INT8, LLAMA_Q8)}
    runs.runs |= {(OURS, f"profile_{kind}"): [run(**extra)] for kind in ("base", "lora32")}
    runs.runs |= {
        (contestant, f"{kind}8{side}"): [run()]
        for kind in ("copying", "not_copying")
        for contestant, side in ((LOOKUP, ""), (WITHOUT_LOOKUP, "_without"))
    }
    found = ratios(runs)
    assert {name: ratio.value for name, ratio in found.items() if ratio is not None} == {
        "lora32_vs_vllm": 1.0,
        "lora32_vs_peft": 1.0,
        "base_vs_llamacpp": 1.0,
        "lora32_vs_base": 1.0,
        "lora1_vs_base": 1.0,
        "zipf1000_vs_5": 1.0,
        "zipf1000_p99_ttft_vs_5": 1.0,
        "cold_minus_warm_ms": 12.0,
        "registry_overhead": 0.01,
        "lookup_copying": 1.0,
        "lookup_not_copying": 1.0,
        "limit_fraction_base": 0.7,
        "limit_fraction_lora32": 0.7,
        "base_vs_vllm": 1.0,
        "prefill1000_vs_vllm": 1.0,
        "base_vs_llamacpp_16bit": 1.0,
        "int8_vs_llamacpp_q8": 1.0,
        "prefill1000_vs_llamacpp_16bit": 1.0,
    }


def test_of_two_formats_of_llamacpp_the_faster_counts() -> None:
    runs = played(ours_base=[run(6.0)], llama_base=[run(1.0)], half_base=[run(3.0)])
    found = ratios(runs)["base_vs_llamacpp_16bit"]
    assert found is not None
    assert found.value == pytest.approx(2.0)


def test_prompts_are_compared_by_the_time_to_the_last_first_token() -> None:
    found = ratios(played(ours_prefill1000=[run(ttft=0.1)], dense_prefill1000=[run(ttft=0.3)]))
    assert found["prefill1000_vs_vllm"] is not None
    assert found["prefill1000_vs_vllm"].value == pytest.approx(3.0)


def test_the_p99_of_first_tokens_is_compared_in_each_repeat() -> None:
    many, few = [run(ttft=0.1), run(ttft=0.2), run(ttft=0.9)], [run(ttft=0.1)] * 3
    found = ratios(played(ours_zipf1000=many, ours_zipf5=few))["zipf1000_p99_ttft_vs_5"]
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 1.0, 9.0))


def test_percentiles_are_of_each_repeat_so_that_a_disturbed_one_changes_the_range_alone() -> None:
    calm = Measurement(1.0, 10, [0.1] * 99 + [0.2], [0.01, 0.02], 1, 1)
    busy = Measurement(1.0, 10, [0.5] * 99 + [0.8], [0.05, 0.06], 1, 1)
    made = row((OURS, "base"), [Run(each, 0.0, 0) for each in (calm, busy, calm)])
    assert made["ttft_ms"]["p50"] == {"median": 100, "min": 100, "max": 500}
    assert made["ttft_ms"]["p99"] == {"median": 100, "min": 100, "max": 500}
    assert made["itl_ms"] == {"p50": {"median": 10, "min": 10, "max": 50}, "p99": None}


def test_fewer_than_a_hundred_samples_have_no_p99() -> None:
    one, other = (Measurement(1.0, 10, [0.1] * number, [], 1, 1) for number in (100, 99))
    assert row((OURS, "base"), [Run(one, 0.0, 0)])["ttft_ms"]["p99"] is not None
    assert row((OURS, "base"), [Run(each, 0.0, 0) for each in (one, other)])["ttft_ms"]["p99"] is None


def test_a_row_has_speed_latencies_and_memory() -> None:
    made = row((OURS, "base"), [run(1.0), run(3.0), run(2.0, foreign=0.5)])
    assert made["tokens_per_second"] == {"median": 2000, "min": 1000, "max": 3000}
    assert made["ttft_ms"]["p50"] == {"median": 100, "min": 100, "max": 100}
    assert made["itl_ms"]["p50"] == {"median": 10, "min": 10, "max": 10}
    assert made["itl_mean_ms"] == pytest.approx(15)
    assert (made["rss_mib"], made["peak_rss_mib"]) == (1, 2)
    assert made["other_cpu"]["max"] == 0.5


def test_what_was_read_from_disks_is_that_of_all_runs() -> None:
    made = row((OURS, "zipf1000"), [run(disk=3 * 2**20), run(), run(disk=2**20)])
    assert made["disk_read_mib"] == 4


def test_a_mean_gap_is_not_passed_off_as_a_percentile() -> None:
    single = Run(Measurement(1.0, 10, [0.1], [0.01], 1, 1), 0.0, 0)
    made = row((LLAMA, "base"), [single, single])
    assert made["itl_ms"] == {"p50": None, "p99": None}
    assert made["itl_mean_ms"] == pytest.approx(10)


def test_a_machine_is_quiet_when_others_took_little_in_every_row() -> None:
    quiet = row((OURS, "base"), [run(foreign=0.01), run(foreign=0.02), run(foreign=0.9)])
    busy = row((OURS, "lora1"), [run(foreign=0.2)])
    assert is_quiet([quiet])
    assert not is_quiet([quiet, busy])
