"""The ASGI application of one installation: `uvicorn --factory backend.app:create`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from backend.api.app import create_app
from backend.bootstrap import Installation
from backend.serving import services_of
from backend.settings import load_settings

if TYPE_CHECKING:
    from fastapi import FastAPI


def create() -> FastAPI:
    settings = load_settings()
    return create_app(services_of(Installation(settings)), settings)
