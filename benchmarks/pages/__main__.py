"""Measures the pages: `python -m benchmarks.pages [--json] [--adapters N] [--screens FOLDER]`.

A real server process with a seeded database; Chromium on this machine, signed in. Figures are the worst of
all pages, over light and dark, desktop and phone. `first_page_kb` is what a first
visit transfers, headers included. Times are from request to response on loopback, one request after another.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from backend.chain.local_node import free_port
from backend.domain.errors import Unavailable
from backend.installation.installation import Installation
from benchmarks.api import market as api_market
from benchmarks.engine import machine
from benchmarks.pages import market
from benchmarks.pages.measures import percentile, server_times, visit
from tools.browser import chromium

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

START_SECONDS = 120.0


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, _serving(Path(folder) / "home", options.adapters) as served:
        url, seeded = served
        report = _measure(url, seeded, options.repeats, options.screens)
    report["adapters"] = options.adapters
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        print("\n".join(f"{name:32} {value}" for name, value in report["figures"].items()))
    return 0


def _measure(url: str, seeded: market.SeededPages, repeats: int, screens: Path | None) -> dict[str, Any]:
    paths, session = seeded.paths, seeded.session
    if screens is not None:
        screens.mkdir(parents=True, exist_ok=True)
    times = server_times([url + path for path in paths.values()], session, repeats)
    with chromium() as browser:
        visits = {name: visit(browser, url + path, session, screens, name) for name, path in paths.items()}
    figures = {
        "first_page_kb": max(one.kilobytes for one in visits.values()),
        "server_ms_p50_1000_adapters": max(percentile(values, 50) for values in times.values()),
        "server_ms_p99_1000_adapters": max(percentile(values, 99) for values in times.values()),
        "axe_violations": sum(one.violations.total() for one in visits.values()),
        "console_errors": sum(len(one.console) for one in visits.values()),
        "layout_shift": max(one.layout_shift for one in visits.values()),
    }
    pages = {
        name: {
            "kilobytes": round(one.kilobytes, 1),
            "server_ms_p50": round(percentile(times[url + paths[name]], 50), 1),
            "server_ms_p99": round(percentile(times[url + paths[name]], 99), 1),
            "violations": dict(one.violations),
            "console": one.console,
            "layout_shift": round(one.layout_shift, 4),
        }
        for name, one in visits.items()
    }
    return {
        "figures": {name: round(value, 3) for name, value in figures.items()},
        "pages": pages,
        "machine": machine.describe(),
    }


@contextmanager
def _serving(home: Path, num_adapters: int) -> Iterator[tuple[str, market.SeededPages]]:
    """A seeded installation's API process: its URL, and the paths of the measured pages."""
    api_market.create_home(home)
    settings = api_market.build_settings(home, api_port=free_port())
    installation = Installation(settings)
    seeded = market.seed(installation, num_adapters)
    installation.close()
    names = ("home", "api_port", "max_lag_seconds")
    environment = {f"LORALEDGER_{name.upper()}": str(getattr(settings, name)) for name in names}
    environment["LORALEDGER_ADDRESS_REQUESTS_PER_MINUTE"] = "0"
    command = [sys.executable, "-m", "backend.cli.main", "serve"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
        try:
            url = f"http://{settings.api_host}:{settings.api_port}"
            _wait(url, home / "log")
            yield url, seeded
        finally:
            process.kill()
            process.wait()


def _wait(url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/health").raise_for_status()
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
    raise Unavailable(log.read_text() or "the API did not start")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--adapters", type=int, default=1000, help="adapters in the catalogue")
    parser.add_argument("--repeats", type=int, default=200, help="requests of each page")
    parser.add_argument("--screens", type=Path, help="folder for pictures of all pages")
    return parser


if __name__ == "__main__":
    sys.exit(main())
