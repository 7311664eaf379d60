"""The sources that are known, and which of them a raw tree belongs to."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from chestxray.errors import SourceError
from chestxray.sources.collection import Collection, ReadOptions, Source
from chestxray.sources.nih import NIH
from chestxray.sources.phantom.tree import PHANTOMS

GROUP: Final = "chestxray.sources"
_SHIPPED: Final[tuple[Source, ...]] = (PHANTOMS, NIH)


def registered() -> dict[str, Source]:
    """Give all sources by name: those shipped, then those of other packages.

    Raises:
        SourceError: another package's source cannot be loaded, or has a name that is taken.
    """
    known = {source.name: source for source in _SHIPPED}
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            source: Source = point.load()
        except Exception as error:
            raise SourceError(
                f"the source {point.name} of {point.value} can't be loaded ({error}): update or "
                f"remove its package"
            ) from error
        if source.name in known:
            raise SourceError(
                f"two sources are called {source.name}, one of them from {point.value}: remove "
                f"that package"
            )
        known[source.name] = source
    return known


def recognise(tree: Path) -> Source:
    """Give the source that recognises a tree.

    Raises:
        SourceError: nothing there, or no source or several recognise it.
    """
    if not tree.exists():
        raise SourceError(f"{tree} does not exist: give a folder of radiographs, or a label table")
    known = registered()
    found = [source for source in known.values() if source.recognises(tree)]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(source.name for source in found)
        raise SourceError(f"{tree} looks like {names}: choose one with --source")
    raise SourceError(
        f"{tree} is of no known data set ({', '.join(known)}): name the source with --source"
    )


def read(tree: Path, source: str | None = None, options: ReadOptions | None = None) -> Collection:
    """Read a raw tree, or a label table alone.

    Args:
        tree: a folder, or a label table.
        source: name of the source; recognised by the content when None.
        options: what is asked of the source.

    Raises:
        SourceError: no source of that name, none that recognises the tree, or what it raises.
    """
    options = options or ReadOptions()
    if source is None:
        return recognise(tree).read(tree, options)
    known = registered()
    if source not in known:
        raise SourceError(f"there is no source {source!r}: choose one of {', '.join(known)}")
    return known[source].read(tree, options)
