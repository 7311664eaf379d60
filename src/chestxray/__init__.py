"""Chest radiographs in, calibrated and explained findings out.

`chestxray.load(bundle)` is the door for reading; everything else is reached through the command
line (`chestxray --help`) or the subpackages, in the order in which data flows: `sources`,
`dataset`, `evaluation`, `report`, `model`, `training`, `reading`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chestxray.reading.engine import Choice
    from chestxray.reading.reader import Reader

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(bundle: str | Path, engine: Choice | Path = "auto") -> Reader:
    """Load a bundle folder into a `Reader`.

    Args:
        bundle: the `bundle/` folder of a run.
        engine: `torch`, `openvino`, the `Path` of an export of this bundle, or `auto`: torch on a
            GPU, OpenVINO on a processor where it is installed, else torch.

    Returns:
        A reader whose `read(film)` turns one radiograph into one `Reading`.

    Raises:
        BundleError: the folder is missing, incomplete, altered, or made for another network.
        ArtifactError: the export is of another model or altered.
        MissingExtraError: the engine asked for is not installed.
    """
    from chestxray.reading.reader import Reader

    return Reader.load(Path(bundle), engine)
