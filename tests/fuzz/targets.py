"""All targets by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.fuzz import adapters, content, documents, indices, messages, uploads

if TYPE_CHECKING:
    from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {
    target.name: target
    for module in (adapters, content, documents, indices, messages, uploads)
    for target in module.TARGETS
}
CORPORA = Path(__file__).parents[1] / "corpora"
"""A folder for each target: small inputs that reached something new, and all that found something."""
