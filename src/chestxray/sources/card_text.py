"""The cards of data sets as text: for the command line, and as the page `docs/datasets.md`.

To each card of a shipped source `layouts.json` adds the folder as the owners give it, a line per
file or folder, and on what the reader of this layout was checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Final, cast

from chestxray.sources.anatomy import CHEXMASK
from chestxray.sources.collection import SourceCard
from chestxray.sources.overlaps import sharing

_LAYOUTS: Final = "layouts.json"
_HEAD: Final = """\
# Data sets

What each shipped source reads, how its labels came to be, and which rules it applies. This page is
made from the cards of the sources; `chestxray prepare --list-sources` prints the same, and
`chestxray prepare --show-source NAME` one of them. How a source is chosen, and what the policies
mean, is in [sources.md](sources.md); which sets share radiographs, and where that is known from, in
[overlaps.md](overlaps.md).

Each tree shows the names by which a reader finds the files, not all files. Unpack a data set as its
owners give it: tables and images may lie in other folders of the tree than shown here.
"""
_ORGANS: Final = (
    "CheXmask has masks of them for these images: `chestxray.sources.read_chexmask`. They show "
    "organs, not findings: no dataset holds them, and localization is not evaluated on them."
)


@cache
def _layouts() -> dict[str, dict[str, object]]:
    text = (files("chestxray.sources") / _LAYOUTS).read_text(encoding="utf-8")
    return cast("dict[str, dict[str, object]]", json.loads(text))


def layout(name: str) -> list[str]:
    """Give the folder of a shipped source, a line per file or folder; empty for another source."""
    return cast("list[str]", _layouts().get(name, {}).get("layout", []))


def checked(name: str) -> str:
    """Say on what the reader of a shipped source was checked; empty for another source."""
    return cast("str", _layouts().get(name, {}).get("checked", ""))


def described(name: str, card: SourceCard) -> list[tuple[str, str]]:
    """Give what a card says, in pairs of what it is about and the text; nothing that is empty.

    Args:
        name: of the source.
        card: of the source.
    """
    pairs = (
        ("citation", card.citation),
        ("licence", card.licence),
        ("how to get it", card.access),
        ("labels", card.label_origin),
        ("policies", f"uncertain {card.uncertain}, blank {card.blank}, views {card.views}"),
        ("why", card.reasons),
        ("split", card.split),
        ("lungs and heart", _ORGANS if name in CHEXMASK else ""),
        ("checked on", checked(name)),
        ("overlaps with", ", ".join(sharing(card.title, card.overlaps))),
        ("torchxrayvision differs", "; ".join(card.differs)),
    )
    return [(what, text) for what, text in pairs if text]


def difference(rule: str) -> tuple[str, str, str]:
    """Split `what: theirs, here ours` into its three parts; the last two empty for another rule."""
    found = re.fullmatch(r"(.+?): (.+)[,;] here (.+)", rule)
    return (found[1], found[2], found[3]) if found else (rule, "", "")


def _differences(rules: Sequence[str]) -> list[str]:
    """Write what torchxrayvision does differently: a table of the rules, or the only sentence."""
    split = [difference(rule) for rule in rules]
    told = [f"{what[:1].upper()}{what[1:]}." for what, theirs, _ in split if not theirs]
    rows = [f"| {' | '.join(parts)} |" for parts in split if parts[1]]
    table = ["", "| rule | torchxrayvision | here |", "|---|---|---|", *rows] if rows else []
    return [*table, *(line for sentence in told for line in ("", sentence))]


def page(cards: Mapping[str, SourceCard]) -> str:
    """Write `docs/datasets.md`.

    Args:
        cards: by the name of the source.
    """
    parts = [_HEAD]
    for name, card in cards.items():
        lines = [f"## {card.title}", "", f"`--source {name}`", "", "| | |", "|---|---|"]
        pairs = [pair for pair in described(name, card) if pair[0] != "torchxrayvision differs"]
        lines += [f"| {what} | {text.replace('|', chr(92) + '|')} |" for what, text in pairs]
        if layout(name):
            lines += ["", "```", *layout(name), "```"]
        lines += _differences(card.differs)
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
