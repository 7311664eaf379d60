"""Overlays as they stand in the page: the same pictures, in a fifth of the bytes.

`chestxray explain` writes PNG, whole to the bit. The page holds WebP at the same size, since
dozens of pictures are carried inside it; at this quality the text in them stays sharp.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, Final

from PIL import Image, UnidentifiedImageError

from chestxray.artifacts import require
from chestxray.errors import ArtifactError
from chestxray.report.files import Files

QUALITY: Final = 80
PREFIX: Final = "data:image/webp;base64,"


def shown(files: Files) -> dict[str, dict[str, dict[str, Any]]]:
    """Give the examples by finding and kind, each with its picture inside as `source`.

    Raises:
        ArtifactError: a picture that is gone or is no picture.
    """
    examples: dict[str, dict[str, dict[str, Any]]] = {}
    for example in files.explanations["shown"] if files.explanations else ():
        picture = example | {"source": inlined(files.folder / "explanations" / example["file"])}
        examples.setdefault(example["finding"], {})[example["kind"]] = picture
    return examples


def inlined(path: Path) -> str:
    """Give a picture as a data address."""
    require(path, "chestxray explain")
    file = io.BytesIO()
    try:
        with Image.open(path) as picture:
            picture.convert("RGB").save(file, "WEBP", quality=QUALITY)
    except UnidentifiedImageError as error:
        raise ArtifactError(f"{path} is no picture: run `chestxray explain` again") from error
    return PREFIX + base64.b64encode(file.getvalue()).decode("ascii")
