"""What adapters may not do: answer for another, fail other requests, or keep others from being loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from inference.errors import (
    AdapterDigestMismatchError,
    AdapterFileMissingError,
    NumericalError,
)
from inference.lora.adapter import AdapterLoader
from inference.protocol import AdapterRef
from tests.fixtures_engine import (
    drain,
    greedy,
    load_adapters,
    make_adapter,
    read_tensors,
    rewrite_tensors,
    run_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import pytest

    from inference.engine import Engine
    from inference.lora.adapter import Adapter


def test_an_adapter_is_loaded_while_its_request_waits_for_a_place(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine(max_running=1)
    engine.add(greedy("runs", max_tokens=100_000))
    engine.step()
    engine.add(greedy("waits", adapter=llama_adapters[0]))
    engine.step()
    engine._adapters.registry._pool.shutdown(wait=True)
    engine.step()
    assert engine.status().resident_adapters == [llama_adapters[0].digest]
    assert engine.status().num_waiting == 1
    for key in ("runs", "waits"):
        engine.abort(key)


def test_a_changed_folder_is_refused_by_its_digest(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    ref = make_adapter(tmp_path / "a", tiny_llama)
    changed = rewrite_tensors(ref, {name: tensor * 2 for name, tensor in read_tensors(ref).items()})
    answers = run_all(make_engine(), greedy("old", adapter=ref), greedy("new", adapter=changed))
    assert isinstance(answers["old"].error, AdapterDigestMismatchError)
    assert answers["new"].last.finish_reason == "length"


def test_an_adapter_replaced_under_its_path_never_leaks(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    engine = make_engine()
    old = make_adapter(tmp_path / "a", tiny_llama, seed=1)
    before = run_all(engine, greedy("r", adapter=old))["r"].token_ids
    new = make_adapter(tmp_path / "a", tiny_llama, seed=2)
    fresh = run_all(make_engine(), greedy("r", adapter=new))["r"].token_ids
    answers = run_all(engine, greedy("old", adapter=old), greedy("new", adapter=new))
    assert answers["old"].token_ids == before
    assert answers["new"].token_ids == fresh != before


def test_a_bad_adapter_fails_its_own_requests_only(
    llama_adapters: list[AdapterRef], tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    gone = AdapterRef("0" * 64, str(tmp_path / "gone"))
    answers = run_all(
        make_engine(), greedy("bad", adapter=gone), greedy("base"), greedy("good", adapter=llama_adapters[0])
    )
    assert isinstance(answers["bad"].error, AdapterFileMissingError)
    assert answers["base"].last.finish_reason == answers["good"].last.finish_reason == "length"


def test_an_overflowing_adapter_fails_alone_and_leaves_nothing_behind(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """Finite weights that drive states to infinity, in a mixed batch and in reused kv_blocks."""
    ref = make_adapter(tmp_path / "a", tiny_llama)
    huge = rewrite_tensors(ref, {name: torch.full_like(t, 1e18) for name, t in read_tensors(ref).items()})
    engine = make_engine(kv_budget_bytes=30 * 2048, kv_block_size=4)
    innocent = greedy("i", "x" * 9, max_tokens=30)
    expected = run_all(engine, innocent)["i"].token_ids
    answers = run_all(engine, greedy("h", "y" * 40, adapter=huge, probe=True), innocent)
    assert isinstance(answers["h"].error, NumericalError)
    assert answers["i"].token_ids == expected
    for _ in range(3):
        assert run_all(engine, innocent)["i"].token_ids == expected


def test_embedding_under_an_overflowing_adapter_is_an_error(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    ref = make_adapter(tmp_path / "a", tiny_llama)
    huge = rewrite_tensors(ref, {name: torch.full_like(t, 1e18) for name, t in read_tensors(ref).items()})
    engine = make_engine()
    engine.embed("e", [10, 11], [12], huge)
    assert isinstance(drain(engine)["e"].error, NumericalError)


def test_a_load_refused_at_once_does_not_stall_those_behind_it(
    llama_adapters: list[AdapterRef], tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """The same digest from two folders, the first of them empty: no load ends that could wake the engine."""
    engine, good = make_engine(), llama_adapters[0]
    engine.add(greedy("bad", adapter=AdapterRef(good.digest, str(tmp_path))))
    engine.add(greedy("good", adapter=good))
    (failure,) = engine.step()
    assert isinstance(failure.error, AdapterFileMissingError)
    assert not engine.is_stalled
    assert drain(engine)["good"].last.finish_reason == "length"


def test_a_refused_adapter_is_read_once(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    ref = make_adapter(tmp_path / "a", tiny_llama)
    rewrite_tensors(ref, {name: tensor * 2 for name, tensor in read_tensors(ref).items()})
    read: list[Path] = []
    load = AdapterLoader.load

    def note(loader: AdapterLoader, folder: Path, *rest: Any) -> Adapter:
        read.append(folder)
        return load(loader, folder, *rest)

    monkeypatch.setattr(AdapterLoader, "load", note)
    engine = make_engine()
    answers = run_all(engine, greedy("1", adapter=ref), greedy("2", adapter=ref))
    assert {type(answer.error) for answer in answers.values()} == {AdapterDigestMismatchError}
    assert len(read) == 1
    assert not engine._adapters.registry._loads  # and no load without a request


def test_adapters_in_slots_do_not_keep_a_cold_one_out_of_the_host_cache(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine]
) -> None:
    """The cache has room for one adapter and half a load, and the hot one always has a request waiting."""
    hot, cold = (make_adapter(tmp_path / name, tiny_llama, seed=seed) for seed, name in enumerate("hc"))
    size = (tmp_path / "h" / "adapter_model.safetensors").stat().st_size
    engine = make_engine(max_running=2, adapter_budget_bytes=int(2.5 * size))
    for i in range(4):
        engine.add(greedy(f"hot{i}", adapter=hot, max_tokens=8))
    engine.add(greedy("cold", adapter=cold, max_tokens=8))
    num_hot, num_after = 4, 0
    for output in engine.run():
        assert num_hot < 10_000  # more than are answered during any load
        num_after += output.request_id == "cold"
        if output.finish_reason and output.request_id != "cold" and not num_after:
            engine.add(greedy(f"hot{num_hot}", adapter=hot, max_tokens=8))
            num_hot += 1
    assert num_after == 8


def test_a_hot_adapter_does_not_shut_out_the_others(
    llama_adapters: list[AdapterRef], make_engine: Callable[..., Engine]
) -> None:
    """One slot, and a hot adapter with steady traffic: once the other adapter is loaded, however long that
    takes, its request gets the slot after the two that run.
    """
    engine = make_engine(max_running=2, num_adapter_slots=1)
    hot, cold = llama_adapters[0], llama_adapters[1]
    load_adapters(engine, hot)
    for i in range(4):
        engine.add(greedy(f"hot{i}", adapter=hot, max_tokens=8))
    engine.add(greedy("cold", adapter=cold, max_tokens=8))
    num_hot, num_before_cold, is_cold_done = 4, 0, False
    for output in engine.run():
        is_cold_done |= output.request_id == "cold" and output.finish_reason is not None
        if output.finish_reason and not is_cold_done:
            num_before_cold += cold.digest in engine.status().resident_adapters
            assert num_before_cold <= 2
            engine.add(greedy(f"hot{num_hot}", adapter=hot, max_tokens=8))
            num_hot += 1
    assert is_cold_done


def test_an_adapter_that_is_hot_in_its_slot_is_not_read_again_when_it_loses_it(
    tiny_llama: Path, tmp_path: Path, make_engine: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two slots, room for three on the host; others come and go, the hot one is used between all of them."""
    hot, *others = (make_adapter(tmp_path / str(seed), tiny_llama, seed=seed) for seed in range(6))
    size = (tmp_path / "0" / "adapter_model.safetensors").stat().st_size
    read: list[str] = []
    load = AdapterLoader.load

    def note(loader: AdapterLoader, folder: Path, digest: str, *rest: Any) -> Adapter:
        read.append(digest)
        return load(loader, folder, digest, *rest)

    monkeypatch.setattr(AdapterLoader, "load", note)
    engine = make_engine(num_adapter_slots=2, adapter_budget_bytes=int(4.5 * size))
    for other in others:
        run_all(engine, greedy("h", adapter=hot, max_tokens=1))
        run_all(engine, greedy("o", adapter=other, max_tokens=1))
    run_all(engine, greedy("o", adapter=others[0], max_tokens=1))  # now it loses its slot
    assert hot.digest not in engine.status().active_adapters
    run_all(engine, greedy("h", adapter=hot, max_tokens=1))
    assert read.count(hot.digest) == 1
