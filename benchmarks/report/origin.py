"""Where the figures of a report come from: processor and code. Reports of earlier versions have neither."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def cpu_text(machine: Mapping[str, Any]) -> str:
    """`machine`: as `benchmarks.engine.machine.describe` returns it."""
    return f"{machine['cpu']} ({machine.get('cpu_model') or 'model not recorded'})"


def commit_text(report: Mapping[str, Any]) -> str:
    return f"commit {report.get('commit') or 'not recorded'}"
