"""Extras that settings need beyond `server`."""

from __future__ import annotations

from importlib.util import find_spec

from backend.domain.errors import InvalidInput

PACKAGES = {
    "aws": "boto3",
    "gcp": "google.cloud.kms_v1",
    "operator": "torch",
    "postgres": "psycopg",
    "redis": "redis",
}
"""Import name by which an extra is recognised."""


def require_extra(extra: str, setting: str) -> None:
    """Errors: `InvalidInput` that names the setting and the extra, if the extra is not installed."""
    try:
        is_installed = find_spec(PACKAGES[extra]) is not None
    except ModuleNotFoundError:  # a parent package is missing
        is_installed = False
    if not is_installed:
        raise InvalidInput(
            f"{setting} needs the extra {extra}: pip install 'loraledger[server,{extra}]'", param=setting
        )
