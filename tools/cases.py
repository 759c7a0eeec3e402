"""Cases of `tests/vectors/*.json`; `make_vectors` describes their form."""

from __future__ import annotations

from typing import Any

from backend.domain.batch import camel_case

Case = dict[str, Any]


def case(**values: Any) -> Case:
    """A case in the file's form: camelCase names, encoded values."""
    return {camel_case(name): _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return str(value)
