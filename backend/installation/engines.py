"""The engines of an installation, and which of them get requests."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from backend.domain.errors import NotFound
from backend.installation.extras import require_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from backend.installation.base_model import BaseModelInfo
    from backend.ports.engine import Engine
    from backend.settings import Settings


class Engines:
    """Each is opened on first use. `base_model`: the prepared one, read if a vLLM server has it."""

    def __init__(self, settings: Settings, base_model: Callable[[], BaseModelInfo]) -> None:
        self._settings, self._base_model = settings, base_model

    @cached_property
    def engine(self) -> Engine:
        """All replicas as one engine."""
        from backend.engine.replicas import ReplicaLimits, Replicas

        stall = self._settings.engine_stall_seconds
        return Replicas(self.replicas, self.drained, ReplicaLimits(stall, probe_seconds=stall / 2))

    @cached_property
    def replicas(self) -> dict[str, Engine]:
        """The replicas by name: vLLM servers by URL, own engines by number."""
        from backend.engine.client import EngineClient

        urls = self._settings.vllm_urls
        if urls:
            return self._vllm_engines(urls)
        sockets = enumerate(self._settings.engine_sockets, start=1)
        return {str(number): EngineClient(path) for number, path in sockets}

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

    @property
    def not_served(self) -> tuple[str, ...]:
        """Kinds of adapters and parts of requests that the engine refuses."""
        if not self._settings.vllm_urls:
            return ()
        from backend.engine.vllm_request import NOT_SERVED

        return NOT_SERVED

    def _drained_file(self, name: str) -> Path:
        if name not in self.replicas:
            raise NotFound(f"no replica {name!r}; there are {', '.join(self.replicas)}", param="name")
        return self._settings.drained_folder / quote(name, safe="")

    def _vllm_engines(self, urls: Sequence[str]) -> dict[str, Engine]:
        """The vLLM servers by URL; they have this home's base model. Errors: `InvalidInput`, `NotFound`."""
        require_extra("operator", "LORALEDGER_ENGINE_URLS")  # adapters are verified by the engine's loader
        from backend.engine.vllm import VllmEngine
        from backend.engine.vllm_adapters import ServedBase, VllmAdapters
        from backend.engine.vllm_answer import read_answer_parts

        settings, base = self._settings, self._base_model()
        folder, digest = Path(base.folder), base.digest.removeprefix("0x")
        served = ServedBase(folder, digest, settings.engine_dtype, settings.vllm_max_rank)
        adapters, parts = VllmAdapters(served, settings.vllm_folder), read_answer_parts(folder)
        return {url: VllmEngine(url, adapters, parts) for url in urls}
