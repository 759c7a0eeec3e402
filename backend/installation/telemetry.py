"""How a process of an installation begins to be watched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.domain.errors import InvalidInput
from telemetry import logs, meters, traces

if TYPE_CHECKING:
    from backend.settings import Settings


def watch_process(settings: Settings, name: str) -> None:
    """To be called before anything that counts is imported. Errors: `InvalidInput`."""
    logs.setup(settings.log_format)
    meters.share(settings.meters, name)
    try:
        traces.start(name)
    except traces.TracesMisconfigured as error:
        raise InvalidInput(str(error), param="OTEL_TRACES_EXPORTER") from error
