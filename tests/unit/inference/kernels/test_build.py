"""Kernels that cannot be compiled or kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from inference.errors import KernelBuildError
from inference.kernels import build
from inference.kernels.build import load_library

if TYPE_CHECKING:
    from pathlib import Path


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(KernelBuildError, match="cannot write or load"):
        load_library()


def test_a_broken_source_is_named_with_the_compilers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "cpp").mkdir()
    (tmp_path / "cpp" / "native.cpp").write_text("int f() { return nonsense; }")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "cpp")
    with pytest.raises(KernelBuildError, match="nonsense"):
        load_library()
    assert not list(tmp_path.rglob("*.so"))
