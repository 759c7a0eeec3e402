"""Deployments that are pinned: chain and contract addresses come from files, never from a market."""

from __future__ import annotations

from pathlib import Path

from backend.domain.deployment import Deployment, parse_deployment
from backend.domain.errors import InvalidInput, NotFound

SHIPPED = Path(__file__).parents[2] / "deployments"
"""Records of public markets, installed with this package."""


def read_deployment(path: Path) -> Deployment:
    """Load the record of a market. Errors: `NotFound`, `InvalidInput`."""
    if not path.is_file():
        raise NotFound(f"no deployment record {path}", param="deployment")
    return parse_deployment(path.read_bytes(), str(path))


def pinned_deployment(chosen: str = "", shipped: Path = SHIPPED) -> Deployment:
    """The deployment of this file or chain id. Default: the only one that is shipped.

    Errors: `NotFound`, `InvalidInput` if several are shipped and none is chosen.
    """
    if chosen and not chosen.isdecimal():
        return read_deployment(Path(chosen))
    known = {path.stem: path for path in sorted(shipped.glob("*.json")) if path.stem.isdecimal()}
    listed = ", ".join(known) or "none"
    if chosen and chosen not in known:
        raise NotFound(
            f"no record of chain {chosen} is shipped (there: {listed}); name the market's record with "
            "--deployment FILE",
            param="deployment",
        )
    if not chosen and len(known) != 1:
        raise InvalidInput(
            f"name the market's record with --deployment FILE, or the chain id of a shipped one ({listed}): "
            "addresses are never taken from the market itself",
            param="deployment",
        )
    return read_deployment(known[chosen] if chosen else next(iter(known.values())))
