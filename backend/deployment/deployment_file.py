"""The deployment file: where an installation finds its contracts."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from backend.deployment.files import write_durably
from backend.domain.deployment import Deployment
from backend.domain.errors import InvalidInput, NotFound
from backend.domain.ids import Account, Hash32

if TYPE_CHECKING:
    from pathlib import Path


def save_deployment(deployment: Deployment, path: Path) -> None:
    write_durably(path, json.dumps(asdict(deployment), indent=2, sort_keys=True) + "\n")


def load_deployment(path: Path) -> Deployment:
    """Load a deployment file or the record of a public market. Errors: `NotFound`, `InvalidInput`."""
    if not path.is_file():
        raise NotFound(
            f"no deployment file {path}: `loraledger up` writes one for the local network; for another "
            "network copy the market's record there",
            param="deployment_file",
        )
    try:
        raw = json.loads(path.read_text())
        addresses = {str(name): Account(address) for name, address in raw["addresses"].items()}
        return Deployment(
            int(raw["chain_id"]), int(raw["block_number"]), Hash32(raw["block_hash"]), addresses
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{path} is not a deployment file: {error!r}", param="deployment_file") from error
