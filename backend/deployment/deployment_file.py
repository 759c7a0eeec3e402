"""The deployment file: where an installation finds its contracts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from backend.disk.files import write_durably
from backend.domain.deployment import parse_deployment
from backend.domain.errors import NotFound

if TYPE_CHECKING:
    from pathlib import Path

    from backend.domain.deployment import Deployment


def save_deployment(deployment: Deployment, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, json.dumps(asdict(deployment), indent=2, sort_keys=True) + "\n")


def load_deployment(path: Path) -> Deployment:
    """Load a deployment file or the record of a public market. Errors: `NotFound`, `InvalidInput`."""
    if not path.is_file():
        raise NotFound(
            f"no deployment file {path}: `loraledger up` writes one for the local network; for another "
            "network copy the market's record there",
            param="deployment_file",
        )
    return parse_deployment(path.read_bytes(), str(path))
