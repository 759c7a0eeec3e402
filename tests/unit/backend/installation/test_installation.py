from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from backend.domain.errors import NotFound
from backend.engine.replicas import Replicas
from backend.installation.installation import Installation
from backend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_attributors_prefer_distilled_maps_and_fall_back_to_uniform(tmp_path: Path) -> None:
    methods = [each.method for each in Installation(Settings(home=tmp_path)).attribution.methods]
    assert methods == ["distilled-1", "distilled-error-1", "error-ridge-1", "hidden-cosine-1", "uniform-1"]


def test_own_engines_are_replicas_with_a_socket_each(tmp_path: Path) -> None:
    installation = Installation(Settings(home=tmp_path, engine_replicas=2))
    assert list(installation.engines.replicas) == ["1", "2"]
    names = [path.name for path in installation.settings.engine_sockets]
    assert names == ["engine.sock", "engine-2.sock"]


def test_a_single_engine_is_watched_as_a_replica(tmp_path: Path) -> None:
    assert isinstance(Installation(Settings(home=tmp_path)).engines.engine, Replicas)


def test_replicas_are_drained_by_name(tmp_path: Path) -> None:
    installation = Installation(Settings(home=tmp_path, engine_replicas=2))
    assert installation.engines.drained() == []
    installation.engines.drain("2")
    assert Installation(installation.settings).engines.drained() == ["2"]
    installation.engines.resume("2")
    installation.engines.resume("1")
    assert installation.engines.drained() == []
    with pytest.raises(NotFound, match="there are 1, 2"):
        installation.engines.drain("3")


def test_urls_of_servers_are_checked() -> None:
    with pytest.raises(ValueError, match="no URL of a server"):
        Settings(engine_urls="127.0.0.1:8001")
    settings = Settings(engine_urls="http://a:1/, http://b:2")
    assert settings.vllm_urls == ["http://a:1", "http://b:2"]
