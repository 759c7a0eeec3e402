"""The stack of `loraledger up` on this machine, found by the home folder of its installation."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from backend.client.deployments import read_deployment
from backend.domain.errors import NotFound

if TYPE_CHECKING:
    from backend.client.keystore import LocalKey
    from backend.domain.deployment import Deployment

PORTS_FILE = "run/ports.json"


class LocalStack:
    """Ports, contracts and test accounts. Its own deployment file is what it deployed itself."""

    def __init__(self, home: Path | None = None) -> None:
        """Errors: `NotFound` if nothing was started in this home."""
        self.home = home or default_home()
        ports = read_ports(self.home)
        if ports is None:
            raise NotFound(
                f"nothing runs in this home (no {self.home / PORTS_FILE}): start `loraledger up`, or "
                "name a market with --market"
            )
        self.api_url, self.node_url = (f"http://127.0.0.1:{ports[part]}" for part in ("api", "chain"))

    @property
    def deployment(self) -> Deployment:
        """Errors: `NotFound`, `InvalidInput`."""
        return read_deployment(self.home / "deployment.json")

    def user_key(self, index: int) -> LocalKey:
        """The key of a test account. It is public."""
        from backend.chain.local_keys import local_private_key
        from backend.client.keystore import LocalKey

        return LocalKey(local_private_key(index))


def default_home() -> Path:
    """The home folder of the installation that this process would use."""
    return Path(os.environ.get("LORALEDGER_HOME") or ".loraledger")


def read_ports(home: Path) -> dict[str, int] | None:
    """Ports of chain and API under the current or the last `loraledger up`."""
    path = home / PORTS_FILE
    found: dict[str, int] | None = json.loads(path.read_text()) if path.is_file() else None
    return found
