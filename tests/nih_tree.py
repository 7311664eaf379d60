"""A small NIH tree for tests, with boxes, official lists, a 16-bit file and files gone bad."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
LABELS = ("No Finding", "Mass", "Effusion|Hernia", "Infiltration", "Nodule")


def names(images: int) -> list[str]:
    """Two images a patient."""
    return [f"{row // 2 + 1:08d}_{row % 2:03d}.png" for row in range(images)]


def picture(row: int) -> np.ndarray:
    """The pixels of a row: noise [48, 64], of 16 bits in every seventh."""
    dtype = np.uint16 if row % 7 == 3 else np.uint8
    top = np.iinfo(dtype).max
    return np.random.default_rng(row).integers(0, top, (48, 64), dtype, endpoint=True)


def write_tree(raw: Path, images: int = 60, bad: tuple[int, ...] = ()) -> Path:
    """Write a tree; the rows in `bad` have files cut in half."""
    folder = raw / "images_001" / "images"
    folder.mkdir(parents=True)
    lines, boxes = [HEADER], ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    for row, name in enumerate(names(images)):
        Image.fromarray(picture(row)).save(folder / name)
        if row in bad:
            data = (folder / name).read_bytes()
            (folder / name).write_bytes(data[: len(data) // 2])
        label = LABELS[row % len(LABELS)]
        sex, view = "MF"[row // 2 % 2], ("PA", "AP")[row % 2]
        lines.append(f"{name},{label},{row % 2},{row // 2 + 1},{20 + row},{sex},{view},64,48,1,1")
        if label == "Mass":
            boxes.append(f"{name},Mass,256,128,512,256,,,")
    (raw / "Data_Entry_2017_v2020.csv").write_text("\n".join(lines) + "\n")
    (raw / "BBox_List_2017.csv").write_text("\n".join(boxes) + "\n")
    test = names(images)[-images // 5 // 2 * 2 :]
    (raw / "test_list.txt").write_text("\n".join(test) + "\n")
    rest = names(images)[: images - len(test)]
    (raw / "train_val_list.txt").write_text("\n".join(rest) + "\n")
    return raw
