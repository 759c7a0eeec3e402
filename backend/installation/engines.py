"""The engines of an installation by base model, and which of them get requests."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from backend.domain.errors import NotFound
from backend.installation.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.domain.ids import Hash32
    from backend.engine.replicas import WatchedEngine
    from backend.installation.base_model import BaseModelInfo
    from backend.ports.engine import Engine
    from backend.settings import Base, Settings

REQUESTS = ("vllm:num_requests_running", "vllm:num_requests_waiting")


class Engines:
    """Each is opened on first use. `base_models`: the prepared ones, in the order of the settings."""

    def __init__(self, settings: Settings, base_models: Callable[[], Sequence[BaseModelInfo]]) -> None:
        self._settings, self._base_models = settings, base_models

    @cached_property
    def by_base(self) -> dict[Hash32, Engine]:
        """For each base model its replicas as one engine."""
        from backend.engine.replicas import ReplicaLimits, Replicas

        stall = self._settings.engine_stall_seconds
        limits = ReplicaLimits(stall, probe_seconds=stall / 2)
        found = zip(self._base_models(), self._groups, strict=True)
        return {info.digest: Replicas(group, self.drained, limits) for info, group in found}

    @cached_property
    def by_name(self) -> dict[str, Engine]:
        """As `by_base`, by the names of the base models."""
        names = (info.name for info in self._base_models())
        return dict(zip(names, self.by_base.values(), strict=True))

    @property
    def replicas(self) -> dict[str, WatchedEngine]:
        """All replicas by name: vLLM servers by URL, own engines by number."""
        return {name: engine for group in self._groups for name, engine in group.items()}

    def labels(self) -> dict[str, str]:
        """For each replica what the settings call its base model."""
        pairs = zip(self._groups, self._settings.served, strict=True)
        return {name: base.label for group, base in pairs for name in group}

    @cached_property
    def _groups(self) -> list[dict[str, WatchedEngine]]:
        """The replicas of each base model by name."""
        return [self._group(place, base) for place, base in enumerate(self._settings.served)]

    async def num_requests(self, name: str, seconds: float) -> int | None:
        """Requests that a replica answers or has in its queue; None if its metrics do not say it. Errors:
        `Unavailable`, also if they cannot be read within `seconds`.
        """
        from backend.engine.metric_texts import total

        found = total(await self.replicas[name].metrics(seconds), REQUESTS)
        return None if found is None else int(found)

    def drained(self) -> list[str]:
        """Names of the replicas that get no new requests."""
        try:
            return [unquote(path.name) for path in self._settings.drained_folder.iterdir()]
        except FileNotFoundError:
            return []

    def drain(self, name: str) -> None:
        """All API processes of this home notice it with their next request. Errors: `NotFound`."""
        path = self._drained_file(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    def resume(self, name: str) -> None:
        """Undo `drain`. Errors: `NotFound`."""
        self._drained_file(name).unlink(missing_ok=True)

    @staticmethod
    def not_served(base: Base) -> tuple[str, ...]:
        """Kinds of adapters and parts of requests that the engines of a base model refuse."""
        if not base.urls:
            return ()
        from backend.engine.vllm_request import NOT_SERVED

        return NOT_SERVED

    def _drained_file(self, name: str) -> Path:
        if name not in self.replicas:
            raise NotFound(f"no replica {name!r}; there are {', '.join(self.replicas)}", param="name")
        return self._settings.drained_folder / quote(name, safe="")

    def _group(self, place: int, base: Base) -> dict[str, WatchedEngine]:
        """The replicas of the base model in this place of the settings, from 0.

        Errors: `InvalidInput` and `NotFound`, for vLLM servers.
        """
        if base.urls:
            return self._vllm_engines(base, self._base_models()[place])
        from backend.engine.client import EngineClient

        return {str(number): EngineClient(path) for number, path in base.sockets.items()}

    def _vllm_engines(self, base: Base, info: BaseModelInfo) -> dict[str, WatchedEngine]:
        setting = "LORALEDGER_BASES" if self._settings.bases else "LORALEDGER_ENGINE_URLS"
        require_extra("operator", setting)  # adapters are verified by the engine's loader
        from backend.disk.space import DiskSpace
        from backend.engine.vllm import VllmEngine
        from backend.engine.vllm_adapters import ServedBase, VllmAdapters
        from backend.engine.vllm_answer import read_answer_parts

        settings, folder, digest = self._settings, Path(info.folder), info.digest.removeprefix("0x")
        served = ServedBase(folder, digest, settings.engine_dtype, settings.vllm_max_rank)
        space = DiskSpace(base.vllm_folder, settings.reserved_disk_bytes)
        adapters = VllmAdapters(served, base.vllm_folder, space.require)
        parts = read_answer_parts(folder)
        return {url: VllmEngine(url, adapters, parts) for url in base.urls}
