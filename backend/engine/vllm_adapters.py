"""Adapters in the folder from which a vLLM server loads them by digest."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import msgspec

from backend.disk.folder_cache import FolderCache
from backend.domain.adapter_files import CONFIG_FILE, exported_from
from backend.domain.errors import DiskFull, InvalidInput, Unavailable
from backend.processes.child import Child, ChildError, module_command
from inference.protocol import AdapterBlend, AdapterRef

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from backend.disk.folder_cache import CachedFolder

CHILD = "workers.vllm_adapters"
EXPORT_SECONDS = 120.0
"""The first export of a process loads torch."""
DRAFTS = ".draft-*"
MAX_BLENDS = 256
"""Blends on disk. Payers choose the weights, so that the number of different blends has no bound."""
IN_USE_SECONDS = 3600.0
"""A folder stays for so long after its last use: longer than an answer waits for the server to load it."""
MAX_BLENDS_OF_PAYER = 16
"""Blends on disk that one payer had written and uses, so that others find room for theirs."""


@dataclass(frozen=True, slots=True)
class ServedBase:
    """The base model that the server has: its folder here, its digest in 64 hex digits, the server's dtype
    and its `--max-lora-rank`.
    """

    folder: Path
    digest: str
    dtype: str
    max_rank: int


class VllmAdapters:
    """Writes each adapter or blend once into `root/<digest>`, where vLLM's `lora_filesystem_resolver` finds
    it. A child process verifies them. Those that were used least recently make room for others.
    """

    def __init__(self, base: ServedBase, root: Path, require_space: Callable[[], None]) -> None:
        """`require_space` raises `DiskFull` if the disk of `root` has no space to spare."""
        self._base, self._require_space = base, require_space
        self._cache = FolderCache(root.resolve())
        self._exports: dict[tuple[str, str], asyncio.Future[None]] = {}
        # A thread of its own: exports that wait must not delay receipts, which use the loop's executor.
        self._exporter = ThreadPoolExecutor(1, "vllm-export")
        self._child: Child | None = None
        self._served: set[tuple[str, str]] = set()
        self._uses = _BlendUses()

    async def prepare(self, adapter: AdapterRef | AdapterBlend, base_name: str, payer: str) -> None:
        """Return once `root/<digest>` is there, for a server that names its base model `base_name`.

        Errors: `InvalidInput` for an adapter that is refused, `Unavailable`, `DiskFull`.
        """
        key = adapter.digest, base_name
        found = self._cache.use(adapter.digest)
        if isinstance(adapter, AdapterBlend):
            self._uses.add(payer, adapter.digest, is_written=found is not None)
        if key in self._served and found is not None:
            return
        export = self._exports.get(key)
        if export is None:
            loop = asyncio.get_running_loop()
            export = loop.run_in_executor(self._exporter, self._export, adapter, base_name)
            self._exports[key] = export
            export.add_done_callback(lambda _: self._exports.pop(key))
        await asyncio.shield(export)
        self._served.add(key)

    def close(self) -> None:
        self._exporter.shutdown(cancel_futures=True)
        self._end_child()

    def _export(self, adapter: AdapterRef | AdapterBlend, base_name: str) -> None:
        kind = "adapter" if isinstance(adapter, AdapterRef) else "blend"
        folder = self._cache.root / adapter.digest
        if not folder.is_dir():
            if isinstance(adapter, AdapterBlend):
                self._limit_blends()
            self._make_room()
        message = {"folder": str(folder), "base_name": base_name}
        answer = self._ask({**message, kind: msgspec.to_builtins(adapter)})
        if answer:
            raise InvalidInput(answer["message"], "model", {"code": answer["code"]})

    def _limit_blends(self) -> None:
        """Delete the blends that were used least recently. Errors: `Unavailable` if all are in use."""
        before = time.time() - IN_USE_SECONDS
        blends = [each for each in self._cache.least_recent(inf) if _is_blend(each)]
        for each in blends[: max(0, len(blends) - MAX_BLENDS + 1)]:
            if each.used_at > before:
                raise Unavailable(
                    f"{MAX_BLENDS} different blends were used within the last hour, and no more are kept: "
                    "use one of them, or try again later"
                )
            self._cache.drop(each.path.name, before)

    def _make_room(self) -> None:
        """Delete folders that are not in use, least recently used first, while there is no space.

        Errors: `DiskFull` if there is none then.
        """
        if self._has_space():
            return
        before = time.time() - IN_USE_SECONDS
        self._cache.sweep(DRAFTS)
        for each in self._cache.least_recent(before):
            if self._has_space():
                return
            if _exported_from(each):
                self._cache.drop(each.path.name, before)
        self._require_space()

    def _has_space(self) -> bool:
        try:
            self._require_space()
        except DiskFull:
            return False
        return True

    def _ask(self, message: dict[str, Any]) -> dict[str, str]:
        try:
            child = self._running_child()
            child.send(message)
            answer: dict[str, str] = child.receive(EXPORT_SECONDS)
        except ChildError as error:
            self._end_child()
            raise Unavailable(f"the process that verifies adapters failed: {error}; try again") from error
        return answer

    def _running_child(self) -> Child:
        if self._child is None:
            self._child = Child(module_command(CHILD), errors=None, environment={"OMP_NUM_THREADS": "1"})
            base = self._base
            fields = {"base_folder": str(base.folder), "base_digest": base.digest}
            self._child.send({**fields, "dtype": base.dtype, "max_rank": base.max_rank})
        return self._child

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None


def _exported_from(folder: CachedFolder) -> list[str]:
    return exported_from(folder.read(CONFIG_FILE))


def _is_blend(folder: CachedFolder) -> bool:
    """Whether the folder is of a blend: that of an adapter has its digest as name."""
    digests = _exported_from(folder)
    return bool(digests) and folder.path.name not in digests


class _BlendUses:
    """When each payer last used the blends that it had written, if within `IN_USE_SECONDS`."""

    def __init__(self) -> None:
        self._used_at: OrderedDict[tuple[str, str], float] = OrderedDict()
        """By payer and digest, least recently used first."""

    def add(self, payer: str, digest: str, *, is_written: bool) -> None:
        """Errors: `Unavailable` if the blend is not written yet, and the payer uses too many others."""
        now = time.monotonic()
        while self._used_at and next(iter(self._used_at.values())) < now - IN_USE_SECONDS:
            self._used_at.popitem(last=False)
        if (payer, digest) not in self._used_at:
            if is_written:
                return
            if sum(each == payer for each, _ in self._used_at) >= MAX_BLENDS_OF_PAYER:
                raise Unavailable(
                    f"you asked for {MAX_BLENDS_OF_PAYER} different new blends within the last hour, and no "
                    "more are kept for one payer: use one of them, or try again later"
                )
        self._used_at[payer, digest] = now
        self._used_at.move_to_end((payer, digest))
