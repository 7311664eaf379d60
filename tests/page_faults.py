"""What is wrong with a page in a browser: with its accessibility, its width, and what it loads."""

from __future__ import annotations

from urllib.parse import urlsplit

WIDTHS = (1440, 1024, 390)
"""Of windows: a desktop, a tablet held across, a phone."""

_OPEN = "document.querySelectorAll('details').forEach((each) => { each.open = true; })"
_OVERHANG = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def faults_of(browser, address: str, width: int, scheme: str = "light") -> list[str]:
    """The violations of axe's rules, how far the page is too wide, and whom else it asks."""
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address, wait_until="networkidle")
    page.evaluate(_OPEN)
    parts = urlsplit(address)
    own = (f"{parts.scheme}://{parts.netloc}/", "data:", "blob:")
    found = [f"asks {url}" for url in asked if not url.startswith(own)]
    if (overhang := page.evaluate(_OVERHANG)) > 0:
        found.append(f"{overhang} px wider than its window")
    violations = Axe().run(page).response["violations"]
    page.close()
    return [*found, *(f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in violations)]
