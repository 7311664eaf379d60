"""Check a built site: what its pages load is in the site, and so is what they link to.

python scripts/check_site.py build/site
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

LOADING = {
    ("audio", "src"), ("embed", "src"), ("iframe", "src"), ("img", "src"), ("img", "srcset"),
    ("input", "src"), ("link", "href"), ("object", "data"), ("script", "src"), ("source", "src"),
    ("source", "srcset"), ("track", "src"), ("video", "poster"), ("video", "src"),
}  # fmt: skip
"""Elements and attributes whose address a browser loads by itself."""
NO_LOAD = {"canonical", "next", "prev", "edit"}
"""Relations of a link element that are only stated."""


class Page(HTMLParser):
    """What a page loads, links to, and can be linked at."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.style = False
        self.unlabelled: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element loads, links to or names."""
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        self.style = tag == "style"
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if tag == "img" and not values.get("alt"):
            self.unlabelled.append(values.get("src", ""))
        if tag == "link" and NO_LOAD & set(values.get("rel", "").split()):
            return
        self.loads += [values[name] for name in values if (tag, name) in LOADING]
        self.loads += re.findall(r"url\(([^)]+)\)", values.get("style", ""))

    def handle_data(self, data: str) -> None:
        """Note what a style sheet within the page loads."""
        if self.style:
            self.loads += loaded_by(data)


def loaded_by(style: str) -> list[str]:
    """Give the addresses that a style sheet loads."""
    found = re.findall(r"@import\s+[\"']([^\"']+)|url\(\s*[\"']?([^\"')]+)", style)
    return [one or other for one, other in found]


def faults(site: Path) -> list[str]:
    """Give what is wrong, a line each."""
    pages: dict[Path, Page] = {}
    found = []
    for file in sorted(site.rglob("*.html")):
        page = pages[file.resolve()] = Page()
        page.feed(file.read_text(encoding="utf-8"))
        found += [f"{file}: {one} has no alternative text" for one in page.unlabelled]
        found += [f"{file} loads {one}" for one in page.loads if is_outside(one)]
    for file in sorted(site.rglob("*.css")):
        loads = loaded_by(file.read_text(encoding="utf-8"))
        found += [f"{file} loads {one}" for one in loads if is_outside(one)]
    for file, page in pages.items():
        for link in {*page.links, *page.loads}:
            fault = _fault(site, file, link, pages)
            if fault:
                found.append(f"{file}: {link}: {fault}")
    if not pages:
        found.append(f"{site} has no page")
    return found


def is_outside(address: str) -> bool:
    """Tell whether an address is of another place."""
    parts = urlsplit(address.strip())
    return bool(parts.netloc) or parts.scheme in ("http", "https", "ftp")


def _fault(site: Path, file: Path, link: str, pages: dict[Path, Page]) -> str:
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or file.name == "404.html":
        return ""
    target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
    if target.is_dir():
        target /= "index.html"
    if not target.exists() or not target.is_relative_to(site.resolve()):
        return "leads nowhere"
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "no such place on the page"
    return ""


def main() -> None:
    """Check the site that is named."""
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    found = faults(Path(sys.argv[1]))
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
