"""Sets up logs, metrics and traces of a process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from telemetry import logs, metrics, traces

if TYPE_CHECKING:
    from backend.settings import Settings


def setup_telemetry(settings: Settings, name: str) -> None:
    """Call it before importing any module that defines metrics. Errors: `InvalidInput`."""
    logs.setup(settings.log_format)
    metrics.enable_multiprocess(settings.metrics_folder, name)
    try:
        traces.setup(name)
    except traces.TracesMisconfigured as error:
        raise InvalidInput(str(error), param="OTEL_TRACES_EXPORTER") from error
