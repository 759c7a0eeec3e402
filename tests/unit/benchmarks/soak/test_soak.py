"""A soak of a tiny model; the long one is `make bench-soak`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from benchmarks.soak.__main__ import main
from benchmarks.soak.hostile import make_hostile
from benchmarks.soak.run import Soak
from benchmarks.soak.traffic import Traffic
from inference.config import EngineConfig
from inference.lora.files import adapter_digest
from inference.protocol import AdapterRef

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.soak.hostile import Hostile


@pytest.fixture
def hostile(adapters: list[str], tmp_path: Path) -> list[Hostile]:
    return make_hostile(Path(adapters[0]), tmp_path / "hostile")


def small(model: Path) -> EngineConfig:
    return EngineConfig(
        model,
        num_threads=1,
        kernels="portable",
        max_waiting=4,
        max_context=160,
        kv_budget_bytes=2**18,
        num_adapter_slots=2,
        num_adapter_rows=8,
        max_rank=4,
        adapter_budget_bytes=2**15,
    )


def steps() -> Callable[[], float]:
    """A clock that moves when it is read, so that a soak has as many steps on any machine."""
    reads = itertools.count()
    return lambda: next(reads) / 10


def test_every_request_of_a_soak_ends_as_it_should(
    tiny_model: Path, adapters: list[str], hostile: list[Hostile]
) -> None:
    refs = [AdapterRef(adapter_digest(Path(folder)), folder) for folder in adapters]
    observed = Soak(small(tiny_model), Traffic(refs, hostile), steps()).run(25.0, lambda *_: None)
    assert observed.failures(checks_memory=False) == []
    assert observed.ledger.counts["refused"] > 0
    assert observed.num_integrity_checks > 0


def test_each_hostile_adapter_has_another_fault(hostile: list[Hostile]) -> None:
    assert len({one.code for one in hostile}) == len(hostile) >= 8


def test_a_hostile_adapter_taken_for_honest_is_reported(
    tiny_model: Path, adapters: list[str], hostile: list[Hostile]
) -> None:
    traffic = Traffic([hostile[0].adapter], hostile)
    observed = Soak(small(tiny_model), traffic, steps()).run(5.0, lambda *_: None)
    assert any("adapter_digest_mismatch" in failure for failure in observed.failures())


@pytest.mark.deep
def test_a_minute_of_everything_at_once_holds(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--adapters", "200", "--threads", "1", "--kv-mib", "1", "--adapter-mib", "1"]
    status = main(["--json", "--minutes", "1", "--model", str(tiny_model), *small])
    report = json.loads(capsys.readouterr().out)
    assert report["failures"] == []
    assert status == 0
    assert report["requests"]["answered"] > 0
