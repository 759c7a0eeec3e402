"""Measures the pages: `python -m benchmarks.pages [--json] [--adapters N] [--screens FOLDER]`.

Real server processes with seeded databases; Chromium on this machine, signed in. Figures are the worst of
all pages, over light and dark, desktop and phone. `first_page_kb` is what a first visit transfers, headers
included. Times are from request to response on loopback, one request after another. Pages that read the
chain have theirs in the report alone: they depend on the node, here Hardhat's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections import ChainMap
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.installation.installation import Installation
from backend.loopback import free_port
from benchmarks.api import market as api_market
from benchmarks.api.figures import percentile
from benchmarks.engine import machine
from benchmarks.pages import market, on_chain, pictures
from benchmarks.pages.measures import server_times, visit
from benchmarks.pages.pictures import Served
from benchmarks.processes import await_listeners, running, variables
from tools.browser import chromium

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from backend.settings import Settings


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        seeded = stack.enter_context(_seeded(folder / "seeded", options.adapters))
        viewer, operator = stack.enter_context(_on_chain(folder / "on_chain", options.proposals))
        report = _measure(seeded, (viewer, operator), options)
        if options.pictures is not None:
            pictures.draw(seeded, viewer, options.pictures)
    report["adapters"] = options.adapters
    if options.json:
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        print("\n".join(f"{name:32} {value}" for name, value in report["figures"].items()))
    return 0


def _measure(seeded: Served, on_chain: tuple[Served, Served], options: argparse.Namespace) -> dict[str, Any]:
    """Times and visits of all pages. Only times of the seeded installation's pages are figures."""
    screens: Path | None = options.screens
    if screens is not None:
        screens.mkdir(parents=True, exist_ok=True)
    times, *others = (_server_times(served, options) for served in (seeded, *on_chain))
    with chromium() as browser:
        visits = {
            name: visit(browser, served.url + path, served.session, screens, name)
            for served in (seeded, *on_chain)
            for name, path in served.paths.items()
            if _is_measured(name, options)
        }
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
            **_percentiles(ChainMap(times, *others)[name]),
            "violations": dict(one.violations),
            "console": one.console,
            "layout_shift": round(one.layout_shift, 4),
            "overflow": one.overflow,
        }
        for name, one in visits.items()
    }
    return {
        "figures": {name: round(value, 3) for name, value in figures.items()},
        "pages": pages,
        "machine": machine.describe(),
    }


def _server_times(served: Served, options: argparse.Namespace) -> dict[str, list[float]]:
    """Milliseconds of each request, by page."""
    names = {served.url + path: name for name, path in served.paths.items() if _is_measured(name, options)}
    times = server_times(list(names), served.session, options.repeats)
    return {names[url]: values for url, values in times.items()}


def _is_measured(name: str, options: argparse.Namespace) -> bool:
    return not options.pages or name in options.pages


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    return {f"server_ms_p{number}": round(percentile(times, number), 1) for number in (50, 99)}


@contextmanager
def _seeded(home: Path, num_adapters: int) -> Iterator[Served]:
    """An installation with many adapters, whose chain is events alone."""
    api_market.create_home(home)
    settings = api_market.build_settings(home, api_port=free_port())
    installation = Installation(settings)
    seeded = market.seed(installation, num_adapters)
    installation.close()
    with _serving(settings) as url:
        yield Served(url, seeded.paths, seeded.session, settings.rpc_url)


@contextmanager
def _on_chain(home: Path, num_proposals: int) -> Iterator[tuple[Served, Served]]:
    """A viewer's pages, and its operator's."""
    with on_chain.prepared(home, num_proposals) as (settings, viewers, own), _serving(settings) as url:
        viewer, operator = (Served(url, one.paths, one.session, settings.rpc_url) for one in (viewers, own))
        yield viewer, operator


@contextmanager
def _serving(settings: Settings) -> Iterator[str]:
    """An installation's API process: its URL."""
    names = ("home", "api_port", "max_lag_seconds", "rpc_url", "confirmations", "keystore_password_file")
    values = {name: getattr(settings, name) for name in names}
    environment = variables(values | {"address_requests_per_minute": 0})
    command = [sys.executable, "-m", "backend.cli.main", "serve"]
    log_file = settings.home / "log"
    with log_file.open("wb") as log, running(command, environment, log) as process:
        await_listeners([process], [settings.api_port], log_file)
        yield f"http://{settings.api_host}:{settings.api_port}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--adapters", type=int, default=1000, help="adapters in the catalogue")
    parser.add_argument("--proposals", type=int, default=200, help="proposals to change the market's rules")
    parser.add_argument("--repeats", type=int, default=200, help="requests of each page")
    parser.add_argument("--pages", nargs="+", metavar="NAME", help="pages to measure; default: all")
    parser.add_argument("--screens", type=Path, help="folder for pictures of all pages")
    parser.add_argument("--pictures", type=Path, help="folder for the pictures of README and guides")
    return parser


if __name__ == "__main__":
    sys.exit(main())
