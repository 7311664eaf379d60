"""Phantoms on disk: written as Kaggle's copy of NIH ChestX-ray14 lies there, and read as a source.

    OUT/Data_Entry_2017.csv       2017 header with its trailing comma; some ages as `060Y`, one 414
    OUT/BBox_List_2017.csv        the bounds of every mask, in the 1024 frame
    OUT/images_001/images/*.png   8-bit grey, about one in a hundred RGBA
    OUT/train_val_list.txt, OUT/test_list.txt     by patient
    OUT/masks/PPPPPPPP_NNN_<Finding>.png          0 or 255, the size of the image
    OUT/phantom.json              the recipe, written last: without it the tree is unfinished

Each image depends on (seed, patient, follow-up) alone, so any number of processes writes the same
bytes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import pandas as pd

from chestxray.artifacts import read_json, write_json, write_text, written
from chestxray.errors import SourceError
from chestxray.findings import NO_FINDING
from chestxray.parallel import on_all_cores
from chestxray.progress import progress
from chestxray.sources.collection import (
    MASK_COLUMNS,
    Collection,
    ReadOptions,
    SourceCard,
)
from chestxray.sources.nih import FINDINGS, PHANTOM_MARKS, are_phantoms
from chestxray.sources.nih.source import label_tables, read
from chestxray.sources.phantom.canvas import Mask
from chestxray.sources.phantom.population import Exam, population
from chestxray.sources.phantom.render import render
from chestxray.version import __version__

_SMALLEST: Final = 64
_FRAME: Final = 1024  # NIH's boxes are in this frame, whatever the size of the files
_FINISHED, _UNFINISHED = PHANTOM_MARKS
_FIRST_FOLDER, _OTHER_FOLDERS = 4999, 10000  # images in images_001, and in each that follows
_RGBA_SHARE: Final = 0.01
_TEST_EVERY: Final = 4  # every fourth patient: NIH's share, and both parts exist in small trees
_AGE_WITH_UNIT_SHARE: Final = 0.02
_IMPOSSIBLE_AGE: Final = "414"
_ROW_OF_IMPOSSIBLE_AGE: Final = 40
_ORIGINAL_SIDE: Final = 2048
_CHUNK: Final = 24  # images a worker takes at a time: about what starting a process costs

_Box = tuple[str, float, float, float, float]  # finding, x, y, w, h in the 1024 frame


def synth(
    out: str | Path,
    images: int,
    pixels: int = 256,
    seed: int = 0,
    balanced: bool = False,
    workers: int | None = None,
) -> Path:
    """Write phantoms as an NIH tree; the same arguments give the same bytes.

    An unfinished tree of the same recipe gets the images that it lacks; a finished one stays as it
    is.

    Args:
        out: folder to write, absent or empty.
        images: how many radiographs, at least 1.
        pixels: side of each, at least 64.
        seed: of the population, not negative.
        balanced: give every finding the same prevalence (17 %) in place of NIH's.
        workers: processes; all cores when None.

    Returns:
        The folder.

    Raises:
        SourceError: a number out of its range, or `out` holds anything else.
        WorkerError: a worker process died; the same call resumes.
    """
    recipe = {
        "seed": seed,
        "images": images,
        "pixels": pixels,
        "balanced": balanced,
        "package_version": __version__,
    }
    out = Path(out)
    _check(images, pixels, seed)
    if _finished(out, recipe):
        return out
    write_json(out / _UNFINISHED, recipe)
    exams = list(population(images, seed, balanced))
    boxes = _write_images(out, exams, pixels, workers)
    write_text(out / "BBox_List_2017.csv", _box_table(exams, boxes))
    write_text(out / "Data_Entry_2017.csv", _label_table(exams))
    for name, test in (("train_val_list.txt", False), ("test_list.txt", True)):
        names = [exam.name for exam in exams if (exam.patient.number % _TEST_EVERY == 0) == test]
        write_text(out / name, "".join(f"{image}\n" for image in names))
    shares = {f: sum(f in exam.findings for exam in exams) / images for f in FINDINGS}
    patients = exams[-1].patient.number
    write_json(out / _FINISHED, {**recipe, "patients": patients, "prevalence": shares})
    (out / _UNFINISHED).unlink()
    return out


def _check(images: int, pixels: int, seed: int) -> None:
    for name, value, least in (
        ("images", images, 1),
        ("pixels", pixels, _SMALLEST),
        ("seed", seed, 0),
    ):
        if value < least:
            raise SourceError(f"{name} must be at least {least}, not {value}")


def _finished(out: Path, recipe: dict[str, Any]) -> bool:
    """Tell whether `out` already holds this tree; refuse to overwrite anything else."""
    if out.exists() and not out.is_dir():
        raise SourceError(f"{out} is a file, not a folder: choose another name")
    if not out.exists() or not any(out.iterdir()):
        return False
    for name in (_FINISHED, _UNFINISHED):
        if (out / name).exists():
            found = read_json(out / name, "chestxray synth")
            if {key: found.get(key) for key in recipe} == recipe:
                return name == _FINISHED
            raise SourceError(
                f"{out} holds phantoms of another recipe ({_described(found)}) than this one "
                f"({_described(recipe)}): choose an empty folder, or delete this one first"
            )
    raise SourceError(f"{out} is not empty and does not hold phantoms: choose an empty folder")


def _described(recipe: dict[str, Any]) -> str:
    keys = ("images", "pixels", "seed", "balanced", "package_version")
    return ", ".join(f"{key} {recipe.get(key)}" for key in keys)


def _write_images(
    out: Path, exams: list[Exam], pixels: int, workers: int | None
) -> list[list[_Box]]:
    work = partial(_write_image, out=out, pixels=pixels)
    boxes = []
    with (
        on_all_cores(work, list(enumerate(exams)), _CHUNK, workers) as written_boxes,
        progress("synth", len(exams)) as advance,
    ):
        for found in written_boxes:
            boxes.append(found)
            advance()
    return boxes


def _folder_number(index: int) -> int:
    """Give the number of the `images_NNN` folder that holds image `index`, as NIH filled them."""
    return 1 + max(0, index - _FIRST_FOLDER + _OTHER_FOLDERS) // _OTHER_FOLDERS


def _write_image(numbered: tuple[int, Exam], out: Path, pixels: int) -> list[_Box]:
    """Write one image after its masks, unless it is there; gives the masks' boxes."""
    index, exam = numbered
    path = out / f"images_{_folder_number(index):03d}" / "images" / exam.name
    files = {f: out / "masks" / f"{path.stem}_{f}.png" for f in FINDINGS if f in exam.findings}
    if path.exists():
        masks = {finding: _mask(file) for finding, file in files.items()}
    else:
        phantom = render(exam, pixels)
        masks = phantom.masks
        for finding, file in files.items():
            _write_png(file, masks[finding].astype(np.uint8) * 255)
        rgba = exam.stream("file").random() < _RGBA_SHARE
        image = cv2.cvtColor(phantom.image, cv2.COLOR_GRAY2BGRA) if rgba else phantom.image
        _write_png(path, image)
    return [(finding, *_bounds(mask)) for finding, mask in masks.items() if mask.any()]


def _mask(path: Path) -> Mask:
    image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if image is None:
        raise SourceError(f"{path} is missing or damaged: delete the unfinished tree, draw it anew")
    return np.asarray(image > 0)


def _write_png(path: Path, image: cv2.typing.MatLike) -> None:
    with written(path) as temporary:
        cv2.imwrite(str(temporary), image)


def _bounds(mask: Mask) -> tuple[float, float, float, float]:
    """Give the box (x, y, w, h) around a mask's pixels, in the 1024 frame."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    scale = _FRAME / len(mask)
    left, top = int(columns[0]), int(rows[0])
    wide, high = int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top
    return left * scale, top * scale, wide * scale, high * scale


def _csv(rows: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _label_table(exams: list[Exam]) -> str:
    header = (
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,"
        "View Position,OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],\n"
    )
    rows = []
    for number, exam in enumerate(exams, 1):
        spacing = round(exam.field * 10 / _ORIGINAL_SIDE, 3)
        rows.append(
            (
                exam.name,
                "|".join(sorted(exam.findings)) or NO_FINDING,
                exam.follow_up,
                exam.patient.number,
                _IMPOSSIBLE_AGE if number == _ROW_OF_IMPOSSIBLE_AGE else _age(exam),
                exam.patient.sex,
                exam.view,
                _ORIGINAL_SIDE,
                _ORIGINAL_SIDE,
                spacing,
                spacing,
                "",
            )
        )
    return header + _csv(rows)


def _age(exam: Exam) -> str:
    quirk = exam.stream("table").random() < _AGE_WITH_UNIT_SHARE
    return f"{exam.age:03.0f}Y" if quirk else f"{exam.age:.0f}"


def _box_table(exams: list[Exam], boxes: list[list[_Box]]) -> str:
    rows = [
        (exam.name, "Infiltrate" if finding == "Infiltration" else finding, *box)
        for exam, found in zip(exams, boxes, strict=True)
        for finding, *box in found
    ]
    return "Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + _csv(
        [*row, "", "", ""] for row in rows
    )


class _Phantoms:
    name: Final = "phantoms"
    card: Final = SourceCard(
        title="phantoms",
        licence="Drawn by chestxray; free to use.",
        label_origin="Drawn into each radiograph, so known exactly.",
        synthetic=True,
    )

    def recognises(self, tree: Path) -> bool:
        tables = label_tables(tree)[:1]
        return any(are_phantoms(table.parent) for table in tables) or are_phantoms(tree)

    def read(self, tree: Path, options: ReadOptions) -> Collection:
        for folder in (tree, *(table.parent for table in label_tables(tree)[:1])):
            if (folder / _UNFINISHED).exists():
                raise SourceError(
                    f"{folder} holds unfinished phantoms: run `chestxray synth` again"
                )
        # They are written as in 2017, which the content of a small table may not show.
        collection = read(tree, options, self.name, self.card)
        return replace(collection, release="2017", masks=_masks(tree, collection.rows))


def _masks(tree: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """List the masks of the images of a tree, which lie beside the label table."""
    images = {Path(image).stem: image for image in rows["image"]}
    folders = [table.parent / "masks" for table in label_tables(tree)[:1] if tree.is_dir()]
    found = [
        (images[stem], finding, str(path.absolute()))
        for folder in folders
        for path in sorted(folder.glob("*.png"))
        for finding in FINDINGS
        if (stem := path.stem.removesuffix(f"_{finding}")) in images
    ]
    return pd.DataFrame(found, columns=list(MASK_COLUMNS), dtype=object)


PHANTOMS: Final = _Phantoms()
