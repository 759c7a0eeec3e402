"""Chromium for tests, screens and measurements of the pages: the system's, or that of an npm package."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from playwright.sync_api import sync_playwright

from backend.disk.locks import locked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--font-render-hinting=none"),
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@cache
def chromium_path() -> str:
    """Unpacks the package's browser into `build/chromium` on first use."""
    for name in NAMES:
        if (path := shutil.which(name)) is not None:
            return path
    folder = ROOT / "build" / "chromium"
    folder.parent.mkdir(exist_ok=True)
    # The package takes a file that is still being written for a complete one.
    with locked(folder.with_suffix(".lock"), fcntl.LOCK_EX):
        if not folder.is_dir():
            _unpack(folder)
    return str(folder / "chromium")


def _unpack(folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    command = [ROOT / "node_modules/.bin/node", ROOT / "tools/chromium.mjs"]
    subprocess.run(command, env=os.environ | {"TMPDIR": str(partial)}, check=True)
    partial.rename(folder)
