"""Random requests by the published schema: none finds a defect, and every answer is one the schema describes.

Schemathesis runs as a process of its own, as against any server.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backend.api.rate_limits import RateLimits
from backend.services.accounts.rate_counts import MemoryCounts
from backend.settings import Settings
from tests.integration.api.test_how_to import installation

if TYPE_CHECKING:
    from fastapi import FastAPI

    from tests.integration.api.conftest import Api

__all__ = ["installation"]

ROOT = Path(__file__).resolve().parents[3]
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
NO_RATES: Any = {name: 0 for name in Settings.model_fields if name.endswith("_per_minute")}


@pytest.fixture
def fuzzed(api: Api, server: tuple[FastAPI, str]) -> Api:
    """Every name is a model's, the channel is funded, and rate limits are off."""
    app, built = server[0], api.installation
    unlimited = RateLimits(Settings(**NO_RATES), MemoryCounts())
    app.state.services = replace(app.state.services, rate_limits=unlimited)
    built.fund(10**15)
    built.view.snapshots.clear()  # their contributions are not recorded
    resolve = built.catalogue.resolve
    built.catalogue.resolve = lambda *_: resolve("tiny")  # type: ignore[method-assign]
    return api


def fuzz(api: Api, folder: Path, examples: int, *selection: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{api.url}/openapi.json"]
    command += ["-H", f"Authorization: Bearer {api.session}", "--checks", CHECKS, "-n", str(examples)]
    command += ["--phases", "coverage,fuzzing", "--seed", "1", "--no-color", "--request-timeout", "60"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.support.fuzz_hooks"}
    return subprocess.run(
        [*command, *selection], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_answers_withstand_random_requests(fuzzed: Api, tmp_path: Path) -> None:
    done = fuzz(fuzzed, tmp_path, 200, "--include-path-regex", "completions$")
    assert done.returncode == 0, done.stdout


@pytest.mark.deep
@pytest.mark.timeout(1800)
def test_every_operation_withstands_random_requests(fuzzed: Api, tmp_path: Path) -> None:
    """But signing out, which would end the session, and streams of jobs, which wait for events."""
    left_out = "--exclude-path", "/v1/auth/session", "--exclude-path-regex", "events/stream$"
    done = fuzz(fuzzed, tmp_path, 20, *left_out)
    assert done.returncode == 0, done.stdout
