"""Pictures of the orchestrator's pages by a headless Chromium.

PREFECT_API_AUTH_STRING=user:password python tests/screenshot.py <address of a page> <picture.png> <text to wait for>...
"""

import base64
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def find_chromium() -> str | None:
    """A browser of this machine."""
    return next((found for name in _BROWSERS if (found := shutil.which(name))), None)


def photograph(
    address: str, picture: Path, waits_for: tuple[str, ...] = (), *, tab: str | None = None, login: str | None = None
) -> str:
    """Open a page, wait until it shows some texts, and photograph it.

    Args:
        address: Of the page.
        picture: Where the photograph goes.
        waits_for: Texts.
        tab: One of the page's tabs to turn to first.
        login: `user:password` of the orchestrator, as its own login page would remember it.

    Returns:
        The page's visible text.
    """
    with open_page(address, login=login) as page:
        if tab:
            page.get_by_text(tab, exact=True).click()
        for text in waits_for:
            page.get_by_text(text).first.wait_for(timeout=30_000)
        page.wait_for_timeout(1_000)
        picture.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=picture)
        return page.locator("body").inner_text()


@contextmanager
def open_page(address: str, *, login: str | None = None) -> "Iterator[Page]":
    """A page in a browser, for the length of a block.

    Args:
        address: Of the page.
        login: `user:password` of the orchestrator, as its own login page would remember it.

    Yields:
        What can be clicked and typed into.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_QUIET)
        try:
            page = browser.new_page(viewport={"width": 1440, "height": 960})
            if login:
                remembered = json.dumps(base64.b64encode(login.encode()).decode())
                page.add_init_script(f"localStorage.setItem('prefect-password', {remembered})")
            page.goto(address)
            yield page
        finally:
            browser.close()


if __name__ == "__main__":
    photograph(sys.argv[1], Path(sys.argv[2]), tuple(sys.argv[3:]), login=os.environ.get("PREFECT_API_AUTH_STRING"))
