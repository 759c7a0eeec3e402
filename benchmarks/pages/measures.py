"""Measures pages in Chromium: bytes of a first visit, layout shift, what axe and the console report; and the
server's time, without a browser.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
AXE = ROOT / "node_modules" / "axe-core" / "axe.min.js"
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")
SIZES = {"desktop": (1280, 900), "phone": (390, 844)}
SHIFT = """
window.layoutShift = 0;
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.layoutShift += entry.value;
}).observe({ type: "layout-shift", buffered: true });
"""
WARM_UP = 5
SETTLE_MS = 500
"""Time after loading in which scripts may change a page."""
COOKIE = "loraledger_session"


@dataclass(slots=True)
class Visits:
    """Of one page, over all schemes and sizes: the most bytes, the largest shift and overflow; all faults.
    `overflow`: pixels of the page right of the screen.
    """

    kilobytes: float = 0.0
    layout_shift: float = 0.0
    overflow: int = 0
    console: list[str] = field(default_factory=list)
    violations: Counter[str] = field(default_factory=Counter)


def visit(browser: Browser, url: str, session: str, screens: Path | None = None, name: str = "") -> Visits:
    """Visit a page for the first time in each scheme and size. `screens`: folder for pictures of it."""
    found = Visits()
    for scheme in SCHEMES:
        for size, dimensions in SIZES.items():
            page = new_page(browser, url, session, scheme, dimensions)
            page.context.add_init_script(SHIFT)
            page.context.add_init_script(path=AXE)
            _visit(page, url, found)
            if screens is not None:
                page.screenshot(path=screens / f"{name}-{size}-{scheme}.png", full_page=True)
            page.context.close()
    return found


def new_page(browser: Browser, url: str, session: str, scheme: Scheme, dimensions: tuple[int, int]) -> Page:
    """A page of a new context, whose visitor is signed in at the installation of `url`. `dimensions`: of
    the viewport.
    """
    width, height = dimensions
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": width, "height": height}, reduced_motion="reduce"
    )
    context.add_cookies([{"name": COOKIE, "value": session, "url": url}])
    return context.new_page()


def _visit(page: Page, url: str, found: Visits) -> None:
    page.on(
        "console", lambda message: found.console.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: found.console.append(str(error)))
    session, received = page.context.new_cdp_session(page), [0]

    def count(event: dict[str, Any]) -> None:
        received[0] += int(event["encodedDataLength"])

    session.on("Network.loadingFinished", count)
    session.send("Network.enable")
    page.goto(url)
    page.wait_for_timeout(SETTLE_MS)  # a page that follows a job's events is never idle
    report = page.evaluate("() => axe.run()")
    found.violations.update(
        f"{one['id']} at {node['target']}" for one in report["violations"] for node in one["nodes"]
    )
    found.kilobytes = max(found.kilobytes, received[0] / 1000)
    found.layout_shift = max(found.layout_shift, float(page.evaluate("() => window.layoutShift")))
    width = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
    found.overflow = max(found.overflow, int(width))


def server_times(urls: Sequence[str], session: str, repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each request, one after another, without compression's saving for the client."""
    times: dict[str, list[float]] = {url: [] for url in urls}
    headers = {"accept": "text/html", "accept-encoding": "gzip"}
    with httpx.Client(headers=headers, cookies={COOKIE: session}) as client:
        for number in range(WARM_UP + repeats):
            for url in urls:
                started = time.perf_counter()
                client.get(url).raise_for_status()
                if number >= WARM_UP:
                    times[url].append((time.perf_counter() - started) * 1000)
    return times
