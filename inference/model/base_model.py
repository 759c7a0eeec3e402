"""Digest that identifies a base model."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from inference.errors import ModelNotFoundError
from inference.model.checkpoint import weight_files

if TYPE_CHECKING:
    from pathlib import Path

_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
)
# Written by the library that saved the folder; they do not describe the model.
_VOLATILE_CONFIG_KEYS = frozenset({"transformers_version", "_name_or_path"})


def base_model_digest(folder: Path) -> str:
    r"""SHA-256 (64 hex digits) over the weights, config.json and tokenizer files of a Hugging Face folder.

    The hashed text has one line `<sha256 of content>  <file name>\n` per file, sorted by name: the files of
    weights that are read, the tokenizer files present, and config.json as canonical JSON (sorted keys, no
    blanks, UTF-8) without the keys that only name the library that wrote it. Raises `ModelNotFoundError`.
    """
    names = {path.name for path in weight_files(folder)}
    names |= {name for name in _TOKENIZER_FILES if (folder / name).is_file()}
    lines = {name: _file_digest(folder / name) for name in names}
    lines["config.json"] = hashlib.sha256(_canonical_config(folder / "config.json")).hexdigest()
    manifest = "".join(f"{lines[name]}  {name}\n" for name in sorted(lines))
    return hashlib.sha256(manifest.encode()).hexdigest()


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelNotFoundError(f"cannot read {path}: {error}") from error


def _canonical_config(path: Path) -> bytes:
    try:
        config: dict[str, Any] = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(f"cannot read {path}: {error}") from error
    kept = {key: value for key, value in config.items() if key not in _VOLATILE_CONFIG_KEYS}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
