"""The market: its API, services, chain, storage, command line and client."""

from __future__ import annotations

import sys

# py_ecc, on which eth-account depends, raises Python's recursion limit a hundredfold when it is imported.
# Nested JSON of others would then overflow the C stack and end the process, instead of being refused.
_DEFAULT_LIMIT, _PY_ECC_LIMIT = 1_000, 100_000
_limit = sys.getrecursionlimit()
import py_ecc  # noqa: E402, F401

sys.setrecursionlimit(_DEFAULT_LIMIT if _limit == _PY_ECC_LIMIT else _limit)
