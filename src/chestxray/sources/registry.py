"""The sources that are known, and which of them a raw tree belongs to."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from chestxray.errors import SourceError
from chestxray.sources.collection import Collection, ReadOptions, Source, SourceCard
from chestxray.sources.nih import NIH
from chestxray.sources.phantom.tree import PHANTOMS
from chestxray.sources.table import TABLE_SOURCE, columns_of

ENTRY_POINTS: Final = "chestxray.sources"
_SHIPPED: Final[tuple[Source, ...]] = (NIH, PHANTOMS)
_LAST: Final[Source] = TABLE_SOURCE  # reads any table, so it is asked only where no other fits


def registered() -> dict[str, Source]:
    """Give all sources by name: those shipped, those of other packages, and last `table`.

    Raises:
        SourceError: the source of another package cannot be loaded, or has a name that is taken.
    """
    known = {source.name: source for source in _SHIPPED}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            source: Source = point.load()
        except Exception as error:
            raise SourceError(
                f"the source {point.name} of {point.value} cannot be loaded ({error}): update or "
                f"remove its package"
            ) from error
        if source.name in {*known, _LAST.name}:
            raise SourceError(
                f"two sources are called {source.name}, one of them from {point.value}: remove "
                f"that package"
            )
        known[source.name] = source
    return {**known, _LAST.name: _LAST}


def cards() -> dict[str, SourceCard]:
    """List the sources: by name, what is to be known of each data set and its default policies."""
    return {name: source.card for name, source in registered().items()}


def recognise(tree: Path) -> Source:
    """Give the source that recognises a tree by its content; `table` where no other does.

    Raises:
        SourceError: nothing is there, or no source or several recognise it.
    """
    if not tree.exists():
        raise SourceError(f"{tree} does not exist: give a folder of radiographs, or a label table")
    known = registered()
    found = [s for s in known.values() if s is not _LAST and s.recognises(tree)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(source.name for source in found)
        raise SourceError(f"{tree} matches several sources ({names}): choose with --source")
    if _LAST.recognises(tree):
        return _LAST
    raise SourceError(
        f"{tree} is not a recognised data set ({', '.join(known)}). To read your own table, name "
        f"its columns: --source {_LAST.name} --columns image=…,patient=…,labels=…{columns_of(tree)}"
    )


def read(tree: Path, source: str | None = None, options: ReadOptions | None = None) -> Collection:
    """Read a raw tree, or a label table alone.

    Args:
        tree: a folder, or a label table.
        source: name of the source; recognised by the content when None.
        options: what the user asks of the source.

    Raises:
        SourceError: no source of that name, none that recognises the tree, or what it raises.
    """
    options = options or ReadOptions()
    if source is None:
        return recognise(tree).read(tree, options)
    known = registered()
    if source not in known:
        raise SourceError(f"unknown source {source!r}: choose one of {', '.join(known)}")
    return known[source].read(tree, options)
