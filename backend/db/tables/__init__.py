"""The tables. `load_all` makes `Base.metadata` complete, for migrations and tests."""

from __future__ import annotations

import importlib
import pkgutil


def load_all() -> None:
    """Import every table module, so that none is forgotten by a list kept by hand."""
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")
