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
    setup_telemetry(settings, "api")  # before any module that defines metrics is imported
    from backend.api.app import create_app
    from backend.installation.api_services import api_services
    from backend.installation.installation import Installation
    from backend.web.app import add_pages

    installation = Installation(settings)
    installation.check_database()
    services = api_services(installation)
    services.metrics_token()  # create the token's file at the start, so that scrapers can read it
    app = create_app(services, settings)
    add_pages(app, settings)
    freeze_heap()
    return app


GC_THRESHOLD = 10_000
"""New objects that cause a collection; Python's default is 700."""


def freeze_heap() -> None:
    """Exclude all present objects from garbage collection. A full collection of the imported modules' million
    objects would take a tenth of a second, and delay every stream. Others are collected rarely: reference
    counts free what an answer allocates.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
