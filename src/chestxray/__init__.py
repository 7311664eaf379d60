"""Chest radiographs in, calibrated and explained findings out.

`chestxray.load(bundle)` is the door for reading:

    reader = chestxray.load("run/bundle")
    reading = reader.read("film.dcm")            # DICOM, PNG, JPEG, or a grey NumPy array
    reading.probabilities["Effusion"]            # calibrated, in [0, 1]
    reading.heatmaps["Effusion"]                 # float32 [h, w], one scale for every image
    reading.calls["Effusion"]                    # does it reach the threshold chosen on validation?
    reading.warnings                             # why not to trust it, if so

A reading also has `model`, the identity of the weights; `image`, the square image that the model
saw; `thresholds`, the probabilities from which findings are called; and `placement`, where the
radiograph lies in that square, x, y, w, h as fractions of its side.

`read` raises `chestxray.errors.RefusedError` where the gate refuses the film (`read(film,
force=True)` reads it all the same), and `chestxray.errors.ImageError`, of which the former is a
kind, where no radiograph can be made of what it is given.

Everything else is reached through the command line (`chestxray --help`) or the subpackages, in the
order in which data flows: `sources`, `dataset`, `evaluation`, `report`, `model`, `training`,
`reading`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from chestxray.version import __version__

if TYPE_CHECKING:
    from chestxray.reading.reader import Reader

__all__ = ["__version__", "load"]


def load(bundle: str | Path, engine: str | Path = "auto") -> Reader:
    """Load a bundle folder into a `Reader`.

    Args:
        bundle: the `bundle/` folder of a run.
        engine: `torch`, `openvino`, or `auto`: torch on a GPU, OpenVINO on a processor where it is
            installed, else torch. Or the folder of an export of this bundle, which may be of lower
            precision and takes a fraction of the time to load, since it needs no torch.

    Returns:
        A reader whose `read(film)` turns one radiograph into one `Reading`.

    Raises:
        BundleError: the folder is missing, incomplete, altered, an export, or made for another
            network.
        ArtifactError: the export is missing, altered, or of another model.
        MissingExtraError: the engine asked for is not installed.
    """
    from chestxray.reading.reader import Reader

    if engine in ("auto", "torch", "openvino"):
        from chestxray.model import bundle as bundles
        from chestxray.reading.engine import choose

        trained = bundles.load(Path(bundle))
        return Reader(trained, choose(trained, engine))
    from chestxray.model import model_card as card
    from chestxray.model.exported import open_engine

    facts = card.read(Path(bundle))
    return Reader(facts, open_engine(Path(engine), facts.identity))
