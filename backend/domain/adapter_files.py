"""Files of an adapter, as PEFT saves it and as a market publishes it."""

from __future__ import annotations

import json

CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "adapter_config.json", "adapter_model.safetensors", "README.md"
MAX_ADAPTER_BYTES = 1 << 31
MAX_BYTES = {CONFIG_FILE: 1 << 20, WEIGHTS_FILE: MAX_ADAPTER_BYTES}
"""Size limits of an imported adapter's files, by name. It has no others."""
TAG_PATTERN = "[a-z0-9][a-z0-9._-]{0,49}"
"""Tags that a creator gives an imported adapter."""
MAX_TAGS = 16
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npz")
CODE_SUFFIXES = (
    *(".py", ".pyc", ".pyd", ".ipynb", ".so", ".dll", ".dylib", ".exe"),
    *(".sh", ".bat", ".ps1", ".js", ".jar", ".whl"),
)


def code_in(name: str) -> str | None:
    """Why a file of this name may run code; None for others."""
    lower = name.lower()
    if lower.endswith(PICKLE_SUFFIXES):
        return "pickle files can run code when loaded; save the adapter as safetensors"
    return "it is code, which an adapter does not need" if lower.endswith(CODE_SUFFIXES) else None


def exported_from(config: bytes) -> list[str]:
    """Digests of the adapters in a folder for vLLM servers, by the content of its configuration; none if that
    is of another program.
    """
    try:
        content = json.loads(config)
    except ValueError:
        return []
    digests = content.get("exported_from") if isinstance(content, dict) else None
    return [each for each in digests if isinstance(each, str)] if isinstance(digests, list) else []
