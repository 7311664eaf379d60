"""The cards of data sets as text: for the command line, and as the page `docs/datasets.md`."""

from __future__ import annotations

from collections.abc import Mapping

from chestxray.sources.collection import SourceCard
from chestxray.sources.overlaps import sharing

_HEAD = """\
# Data sets

What each shipped source reads, how its labels came to be, and which rules it applies. This page is
made from the cards of the sources; `chestxray prepare --list-sources` prints the same. How a source
is chosen, and what the policies mean, is in [sources.md](sources.md); which sets share radiographs,
and where that is known from, in [overlaps.md](overlaps.md).
"""


def described(card: SourceCard) -> list[tuple[str, str]]:
    """Give what a card says, in pairs of what it is about and the text; nothing that is empty."""
    pairs = (
        ("citation", card.citation),
        ("licence", card.licence),
        ("how to get it", card.access),
        ("labels", card.label_origin),
        ("policies", f"uncertain {card.uncertain}, blank {card.blank}, views {card.views}"),
        ("why", card.reasons),
        ("split", card.split),
        ("overlaps with", ", ".join(sharing(card.title, card.overlaps))),
        ("torchxrayvision differs", "; ".join(card.differs)),
    )
    return [(what, text) for what, text in pairs if text]


def page(cards: Mapping[str, SourceCard]) -> str:
    """Write `docs/datasets.md`.

    Args:
        cards: by the name of the source.
    """
    parts = [_HEAD]
    for name, card in cards.items():
        lines = [f"## {card.title}", "", f"`--source {name}`", "", "| | |", "|---|---|"]
        pairs = [pair for pair in described(card) if pair[0] != "torchxrayvision differs"]
        lines += [f"| {what} | {text.replace('|', chr(92) + '|')} |" for what, text in pairs]
        if card.differs:
            lines += ["", "torchxrayvision reads it differently:", ""]
            lines += [f"- {rule}" for rule in card.differs]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)
