"""The ASGI application of one installation: `uvicorn --factory backend.app:create`."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

from backend.installation.telemetry import setup_telemetry
from backend.settings import load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI


def create() -> FastAPI:
    settings = load_settings()
    setup_telemetry(settings, "api")  # before what counts is imported
    from backend.api.app import create_app
    from backend.installation.api_services import services_of
    from backend.installation.installation import Installation

    services = services_of(Installation(settings))
    services.metrics_token()  # made now: whoever scrapes reads it first
    app = create_app(services, settings)
    keep()
    return app


def keep() -> None:
    """What there is now stays: the collector need not walk through a million objects of imported modules, for
    a tenth of a second and with every stream held up, to find what answers have left behind.
    """
    gc.collect()
    gc.freeze()
