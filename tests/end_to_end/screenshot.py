"""Pictures of the orchestrator's pages by a headless Chromium.

python tests/end_to_end/screenshot.py <address of a page> <picture.png> <text to wait for>...
"""

import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
_QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


def photograph(address: str, picture: Path, waits_for: tuple[str, ...] = ()) -> str:
    """Open a page, wait until it shows some texts, and photograph it.

    Returns:
        The page's visible text.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_QUIET)
        try:
            page = browser.new_page(viewport={"width": 1440, "height": 960})
            page.goto(address)
            for text in waits_for:
                page.get_by_text(text).first.wait_for(timeout=30_000)
            page.wait_for_timeout(1_000)
            picture.parent.mkdir(parents=True, exist_ok=True)
            page.screenshot(path=picture)
            return page.locator("body").inner_text()
        finally:
            browser.close()


if __name__ == "__main__":
    photograph(sys.argv[1], Path(sys.argv[2]), tuple(sys.argv[3:]))
