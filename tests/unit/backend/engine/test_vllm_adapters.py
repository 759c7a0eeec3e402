"""Adapters of vLLM servers: verified and exported by a child process, to a folder that servers share."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

from backend.disk.folder_cache import FolderCache
from backend.disk.space import DiskSpace
from backend.domain.errors import DiskFull, InvalidInput, Unavailable
from backend.engine import vllm_adapters
from backend.engine.vllm_adapters import ServedBase, VllmAdapters
from inference.model.base_model import base_model_digest
from inference.protocol import AdapterBlend, AdapterRef, BlendPart
from tests.support.vllm import FakeVllm, chunks_of
from workers.vllm_adapters import Export, Exporter, Start

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_an_adapter_is_verified_and_served_by_its_digest(
    run: Callable[..., Any],
    vllm: FakeVllm,
    adapters: VllmAdapters,
    served_adapter: AdapterRef,
    tmp_path: Path,
) -> None:
    run(lambda engine: chunks_of(engine, adapter=served_adapter))
    assert vllm.body_of("/v1/completions")["model"] == served_adapter.digest
    folder = tmp_path / "cache" / served_adapter.digest
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "/models/tiny"
    assert config["lora_alpha"] == config["r"]
    assert config["exported_from"] == [served_adapter.digest]
    other = type(served_adapter)("0" * 64, served_adapter.path)
    with pytest.raises(InvalidInput, match="digest") as caught:
        run(lambda engine: chunks_of(engine, adapter=other))
    assert caught.value.details["code"] == "adapter_digest_mismatch"


def test_exports_that_wait_delay_nothing_else(
    adapters: VllmAdapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    monkeypatch.setattr(adapters, "_export", lambda *_: may_end.wait())

    async def use() -> None:
        refs = [AdapterRef(f"{number:064x}", "/nowhere") for number in range(64)]
        exports = [asyncio.create_task(adapters.prepare(ref, "base", "payer")) for ref in refs]
        await asyncio.sleep(0)
        try:
            async with asyncio.timeout(10):
                await asyncio.to_thread(lambda: None)
        finally:
            may_end.set()
        await asyncio.gather(*exports)

    asyncio.run(use())


def test_an_adapter_that_ends_the_verifying_process_is_unavailable(
    adapters: VllmAdapters, served_adapter: AdapterRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_adapters, "CHILD", "workers.no_such_module")
    with pytest.raises(Unavailable, match="verifies adapters failed"):
        asyncio.run(adapters.prepare(served_adapter, "base", "payer"))


def test_an_adapter_that_takes_more_memory_than_any_may_is_refused(
    served_model: Path, served_adapter: AdapterRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_adapters, "CHILD", "tests.support.memoryless_verifier")
    base = ServedBase(served_model, base_model_digest(served_model), "float32", 1 << 14)
    folder = shutil.copytree(served_adapter.path, tmp_path / "hostile")
    os.truncate(folder / "adapter_model.safetensors", 64 << 20)
    adapters = VllmAdapters(base, tmp_path / "cache", lambda: None)
    try:
        with pytest.raises(InvalidInput, match="do not fit into memory") as caught:
            asyncio.run(adapters.prepare(AdapterRef(served_adapter.digest, str(folder)), "base", "payer"))
    finally:
        adapters.close()
    assert caught.value.details["code"] == "adapter_too_large"


def test_torch_without_memory_refuses_the_adapter(
    served_model: Path, served_adapter: AdapterRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Exporter(Start(str(served_model), base_model_digest(served_model), "float32", 32))
    monkeypatch.setattr(exporter, "_blend", lambda _: torch.empty(1 << 50))
    message = Export(str(tmp_path / served_adapter.digest), "base", adapter=served_adapter)
    assert exporter.answer(message)["code"] == "adapter_too_large"
    monkeypatch.setattr(exporter, "_blend", lambda _: torch.empty(-1))
    with pytest.raises(RuntimeError, match="negative"):
        exporter.answer(message)


def test_the_number_of_blends_on_disk_is_bounded(
    adapters: VllmAdapters, served_adapter: AdapterRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_adapters, "MAX_BLENDS", 2)
    blends = [AdapterBlend((BlendPart(served_adapter, weight),)) for weight in (0.5, 0.25, 0.125)]
    folders = [tmp_path / "cache" / blend.digest for blend in blends]

    async def use() -> None:
        await adapters.prepare(served_adapter, "base", "payer")
        for blend in blends[:2]:
            await adapters.prepare(blend, "base", "payer")
        with pytest.raises(Unavailable, match="2 different blends"):
            await adapters.prepare(blends[2], "base", "payer")
        for folder in folders[:2]:
            os.utime(folder, (0, 0))
        await adapters.prepare(blends[0], "base", "payer")
        await adapters.prepare(blends[2], "base", "payer")

    asyncio.run(use())
    assert [folder.is_dir() for folder in folders] == [True, False, True]
    assert (tmp_path / "cache" / served_adapter.digest).is_dir()


def test_a_payer_has_few_blends_written_and_leaves_room_to_others(
    adapters: VllmAdapters, served_adapter: AdapterRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vllm_adapters, "MAX_BLENDS_OF_PAYER", 2)
    blends = [AdapterBlend((BlendPart(served_adapter, 1 / number),)) for number in (2, 3, 4, 5)]

    async def use() -> None:
        for blend in (*blends[:2], *blends[:2]):
            await adapters.prepare(blend, "base", "many")
        with pytest.raises(Unavailable, match="you asked for 2 different new blends"):
            await adapters.prepare(blends[2], "base", "many")
        await adapters.prepare(blends[2], "base", "other")
        await adapters.prepare(blends[2], "base", "many")  # it is written
        with pytest.raises(Unavailable):
            await adapters.prepare(blends[3], "base", "many")
        monkeypatch.setattr(vllm_adapters, "IN_USE_SECONDS", -1)
        await adapters.prepare(blends[3], "base", "many")

    asyncio.run(use())


def test_adapters_are_not_written_into_the_reserved_space(
    served_model: Path, served_adapter: AdapterRef, tmp_path: Path
) -> None:
    base = ServedBase(served_model, base_model_digest(served_model), "float32", 32)
    root = tmp_path / "cache"
    full = VllmAdapters(base, root, DiskSpace(root, reserved=1 << 60).require)
    try:
        with pytest.raises(DiskFull, match="nearly full"):
            asyncio.run(full.prepare(served_adapter, "base", "payer"))
    finally:
        full.close()
    assert not (root / served_adapter.digest).exists()


def test_folders_are_not_listed_while_there_is_space(
    adapters: VllmAdapters, served_adapter: AdapterRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FolderCache, "least_recent", None)
    asyncio.run(adapters.prepare(served_adapter, "base", "payer"))
    assert (tmp_path / "cache" / served_adapter.digest).is_dir()


def test_adapters_that_were_used_least_recently_make_room(
    served_model: Path, served_adapter: AdapterRef, tmp_path: Path
) -> None:
    base = ServedBase(served_model, base_model_digest(served_model), "float32", 32)
    root = tmp_path / "cache"
    blends = [AdapterBlend((BlendPart(served_adapter, weight),)) for weight in (0.5, 0.25, 0.125)]
    limits = [5]

    def require_space() -> None:
        if len(list(root.glob("*/"))) > limits[0]:
            raise DiskFull("nearly full")

    async def use(adapters: VllmAdapters) -> None:
        for each in (served_adapter, *blends[:2]):
            await adapters.prepare(each, "base", "payer")
        (root / "notes").mkdir()
        for used_at, name in enumerate(("notes", blends[1].digest, served_adapter.digest), start=1):
            os.utime(root / name, (used_at, used_at))
        limits[0] = 3
        await adapters.prepare(blends[2], "base", "payer")
        await adapters.prepare(served_adapter, "base", "payer")  # a use
        limits[0] = 0
        with pytest.raises(DiskFull):
            await adapters.prepare(blends[1], "base", "payer")

    adapters = VllmAdapters(base, root, require_space)
    try:
        asyncio.run(use(adapters))
    finally:
        adapters.close()
    names = {"notes", blends[0].digest, blends[2].digest, served_adapter.digest}
    assert {path.name for path in root.iterdir()} == {".lock", *names}
