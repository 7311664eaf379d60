"""The registry of sources, their cards and policies, and what they share."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from chestxray import sources
from chestxray.dataset import split
from chestxray.errors import SourceError
from chestxray.sources import (
    ReadOptions,
    SourceCard,
    card_text,
    files,
    nih,
    registry,
    table_columns,
)
from chestxray.sources.collection import UNCERTAIN, only_views, policies, resolve
from chestxray.sources.demographics import sexes, views
from command_line import run_command
from conftest import REPOSITORY
from nih_tree import write_tree

THIRD_PARTY = Path(__file__).parent / "third_party_source"


def write(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


SHIPPED = [
    "nih", "phantoms", "chexpert", "mimic", "padchest", "rsna", "siim", "vindr",
    "nih-google", "nih-lt", "mimic-lt", "brax", "chexpert-plus",
    "shenzhen", "montgomery", "chestxdet", "chestxdet10", "openi", "jsrt",
]  # fmt: skip
NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"
)


# The registry


@dataclass
class Fake:
    name: str
    card: SourceCard = field(default_factory=lambda: SourceCard("fake"))

    def recognises(self, tree: Path) -> bool:
        return (tree / f"{self.name}.txt").exists() or (tree / "any.txt").exists()

    def read(self, tree: Path, options: ReadOptions) -> sources.Collection:
        raise NotImplementedError


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> list[EntryPoint]:
    points: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda **_: points)
    return points


def point(module: str, name: str = "other") -> EntryPoint:
    return EntryPoint(name=name, value=f"{module}:SOURCE", group=registry.ENTRY_POINTS)


def add(monkeypatch: pytest.MonkeyPatch, points: list[EntryPoint], *names: str) -> None:
    import types

    for name in names:
        module = types.ModuleType(f"fake_{name}")
        module.SOURCE = Fake(name)  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        points.append(point(module.__name__, name))


def test_the_shipped_sources_are_registered_and_table_comes_last() -> None:
    assert list(sources.registered()) == [*SHIPPED, "table"]


def test_every_card_states_title_licence_and_origin_of_the_labels() -> None:
    for name, card in sources.cards().items():
        assert name == name.lower()
        assert card.title
        assert card.licence.endswith(".")
        assert card.label_origin.endswith(".")
        assert card.uncertain in {"zeros", "ones", "ignore"}
        assert card.blank in {"negative", "unknown"}
    assert (
        "RSNA Pneumonia"
        in dict(card_text.described("nih", sources.cards()["nih"]))["overlaps with"]
    )
    assert sources.cards()["phantoms"].synthetic


def test_a_source_of_another_package_is_listed_and_recognised(
    plugged: list[EntryPoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add(monkeypatch, plugged, "zebra")
    write(tmp_path / "zebra.txt")
    assert list(sources.registered()) == [*SHIPPED, "zebra", "table"]
    assert sources.recognise(tmp_path).name == "zebra"


def test_a_tree_of_two_sources_is_refused_with_the_choice(
    plugged: list[EntryPoint], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    add(monkeypatch, plugged, "one", "two")
    write(tmp_path / "any.txt")
    with pytest.raises(SourceError, match=r"several sources \(one, two\): choose with --source"):
        sources.recognise(tmp_path)


@pytest.mark.parametrize("taken", ["nih", "table"])
def test_a_package_cannot_replace_a_source(
    plugged: list[EntryPoint], monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    add(monkeypatch, plugged, taken)
    with pytest.raises(SourceError, match=f"two sources are called {taken}.*remove"):
        sources.registered()


def test_a_package_that_cannot_be_loaded_is_named_where_it_is_needed(
    plugged: list[EntryPoint], tmp_path: Path
) -> None:
    plugged.append(point("no_such_module"))
    assert list(sources.registered()) == [*SHIPPED, "table"]
    for named in ("other", None):
        with pytest.raises(SourceError, match=r"other of no_such_module:SOURCE cannot be loaded"):
            sources.read(tmp_path, named)
    write(tmp_path / "t.csv", "image,patient,Mass", "x.png,1,1")
    for named in ("table", None):
        assert len(sources.read(tmp_path / "t.csv", named).rows) == 1


def test_a_specific_source_is_asked_before_the_table(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", NIH_HEADER, "00000001_000.png,Mass,0,1,50,F,PA")
    assert sources.recognise(tmp_path / "labels.csv").name == "nih"
    write(tmp_path / "labels.csv", "Image Index,Patient ID,Mass", "00000001_000.png,1,1")
    assert sources.recognise(tmp_path / "labels.csv").name == "table"


def test_a_tree_is_listed_once_for_all_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "raw", 4)
    walked: list[str] = []
    walk = files._walk
    monkeypatch.setattr(
        files, "_walk", lambda folder, seen: walked.append(folder) or walk(folder, seen)
    )
    assert sources.read(tmp_path / "raw").name == "nih"
    assert walked.count(str(tmp_path / "raw")) == 1
    write(tmp_path / "raw" / "later.csv", "a,b")
    assert len(files.scan(tmp_path / "raw").tables) == 3, "the next reading lists it again"


@pytest.mark.parametrize(
    ("image", "patient", "name"),
    [
        ("{:08d}_000.png", "{}", "nih"),
        ("images/{:08d}_000.jpg", "{}", "nih"),
        ("IM{:04d}.png", "{}", "hospital"),
        ("P{:03d}.png", "P{:03d}", "hospital"),
    ],
)
def test_a_hospitals_table_with_the_titles_of_nih_is_not_taken_for_nih(
    tmp_path: Path, image: str, patient: str, name: str
) -> None:
    rows = [f"{image.format(n)},Mass,0,{patient.format(n)},50,M,PA" for n in range(1, 5)]
    table = write(tmp_path / "hospital.csv", NIH_HEADER, *rows)
    collection = sources.read(table)
    assert collection.name == name
    assert (collection.card.title == "NIH ChestX-ray14") == (name == "nih")
    assert len(collection.rows) == 4


def test_patients_without_a_number_are_refused_as_nih_in_one_line(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", NIH_HEADER, "P000.png,Mass,0,P000,50,M,PA")
    with pytest.raises(SourceError, match=r"names no patient by number.*'P000'.*--source table"):
        sources.read(table, "nih")


def test_a_table_without_patients_is_recognised_by_its_settings_alone(tmp_path: Path) -> None:
    write(tmp_path / "labels.csv", "image,Mass", "a.png,1")
    with pytest.raises(
        SourceError,
        match=r"not a recognised data set.*--source table.*labels.csv has the columns image, Mass",
    ):
        sources.read(tmp_path)
    write(tmp_path / "columns.yaml", "patient_per_image: true")
    assert sources.recognise(tmp_path).name == "table"
    assert sources.recognise(tmp_path / "labels.csv").name == "table"
    write(tmp_path / "columns.yaml", "patient_per_image: [")
    with pytest.raises(SourceError, match="not readable YAML"):
        sources.read(tmp_path)


def test_what_is_unknown_is_refused_with_the_next_step(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist: give a folder of radiographs"):
        sources.read(tmp_path / "none")
    with pytest.raises(SourceError, match="holds no image: give a folder with radiographs"):
        sources.read(tmp_path)
    with pytest.raises(SourceError, match=r"unknown source 'chexpart': did you mean 'chexpert'\?"):
        sources.read(tmp_path, "chexpart")
    with pytest.raises(SourceError, match="has no table"):
        sources.read(tmp_path, "table")


def test_a_separately_installed_package_adds_a_source(tmp_path: Path) -> None:
    """Built and installed as pip does it, found through its entry point, in a fresh process."""
    lines = sum(
        len(path.read_text(encoding="utf-8").splitlines())
        for path in (THIRD_PARTY / "pyproject.toml", THIRD_PARTY / "chestxray_wards.py")
    )
    assert lines < 60
    package, site = tmp_path / "package", tmp_path / "site"
    package.mkdir()
    for name in ("pyproject.toml", "chestxray_wards.py"):
        (package / name).write_bytes((THIRD_PARTY / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--target", str(site)]
    subprocess.run([*pip, *offline, str(package)], check=True)
    tree = tmp_path / "tree"
    write(tree / "wards.txt")
    for name in ("ward-a/p1_edema.png", "ward-b/p2_normal.png"):
        (tree / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tree / name)
    code = (
        "import json, sys, pathlib; from chestxray import sources\n"
        "read = sources.read(pathlib.Path(sys.argv[1]))\n"
        "print(json.dumps([read.name, read.rows['image'].tolist(), read.rows['Edema'].tolist()]))"
    )
    path = os.pathsep.join([str(site), str(REPOSITORY / "src")])
    run = subprocess.run(
        [sys.executable, "-c", code, str(tree)],
        env={**os.environ, "PYTHONPATH": path}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert json.loads(run.stdout) == [
        "wards", ["ward-a/p1_edema.png", "ward-b/p2_normal.png"], [1.0, 0.0]
    ]  # fmt: skip


def test_the_documentation_names_every_source_column_and_setting(tmp_path: Path) -> None:
    text = (REPOSITORY / "docs" / "sources.md").read_text(encoding="utf-8")
    for name in (*SHIPPED, "table", *table_columns.OURS, table_columns.FINDINGS):
        assert f"| `{name}` |" in text
    table, settings = (text.split(f"```{kind}\n")[1].split("```")[0] for kind in ("", "yaml"))
    write(tmp_path / "labels.csv", table.strip())
    write(tmp_path / "labels.columns.yaml", settings)
    collection = sources.read(tmp_path / "labels.csv")
    assert collection.name == "our-hospital"
    assert collection.findings == ("Effusion", "Pneumothorax", "Rib Fracture")
    assert collection.rows["image"].tolist() == ["P0001/S2/IM01.png"]


def test_a_card_says_that_masks_of_organs_locate_no_finding() -> None:
    said = {
        name for name, card in sources.cards().items()
        if "localization is not evaluated" in dict(card_text.described(name, card)).get(
            "lungs and heart", ""
        )
    }  # fmt: skip
    assert said == {"nih", "chexpert", "mimic", "padchest", "vindr"}


def test_the_page_of_data_sets_is_that_of_the_cards() -> None:
    written = (REPOSITORY / "docs" / "datasets.md").read_text(encoding="utf-8")
    assert written == card_text.page(sources.cards()), (
        "write it again: python -c 'from chestxray.sources import card_text, cards; "
        "print(card_text.page(cards()), end=str())' > docs/datasets.md"
    )


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("padchest", ReadOptions(readers="any"), "labels of several people for an image"),
        ("table", ReadOptions(readers="majority"), "labels of several people for an image"),
        ("vindr", ReadOptions(columns={"image": "image_id"}), "columns of a public data set are"),
        ("rsna", ReadOptions(columns={"table": "x.csv"}), "this one has one set of labels"),
        ("siim", ReadOptions(patient_per_image=True), "for a table of your own"),
        ("vindr", ReadOptions(labelers="physicians"), "physicians labelled in part and a program"),
    ],
)
def test_an_option_that_a_source_would_ignore_is_refused_with_the_reason(
    build: Callable[[str], Path], name: str, options: ReadOptions, reason: str
) -> None:
    with pytest.raises(SourceError, match=rf"read by the source {name}: .*{reason}"):
        sources.read(build(name), name, options)


def test_of_several_trees_only_those_with_readers_get_their_rule(
    build: Callable[[str], Path],
) -> None:
    options = ReadOptions(readers="any", blank="negative")
    each = sources.options_of_each([build("siim"), build("vindr")], None, options)
    assert [of.readers for of in each] == [None, "any"]
    assert {of.blank for of in each} == {"negative"}
    with pytest.raises(SourceError, match="leave the option out"):
        sources.options_of_each([build("siim"), build("rsna")], None, options)
    both = ReadOptions(readers="any", labelers="physicians")
    each = sources.options_of_each([build("padchest"), build("vindr")], None, both)
    assert [(of.readers, of.labelers) for of in each] == [(None, "physicians"), ("any", None)]


def test_the_command_prints_one_card_with_its_files() -> None:
    shown = run_command("prepare", "--show-source", "padchest")
    assert shown.returncode == 0
    assert shown.stdout.startswith("padchest: PadChest\n")
    assert "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz\n" in shown.stdout
    assert "VinDr" not in shown.stdout
    wrong = run_command("prepare", "--show-source", "padchset")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "did you mean 'padchest'?" in wrong.stderr


@pytest.mark.parametrize("name", SHIPPED)
def test_a_card_of_real_radiographs_says_what_a_user_has_to_know(name: str) -> None:
    card = sources.cards()[name]
    if card.synthetic:
        return
    for text in (card.citation, card.access, card.reasons, card.split, card.differs):
        assert text
    for rule in card.differs:
        told = all(card_text.difference(rule)) or rule == "not read by torchxrayvision"
        assert told, f"{rule!r} is no rule `what: theirs, here ours`"
    shown = dict(card_text.described(name, card))
    assert shown["policies"] == "uncertain ignore, blank negative, views frontal"
    assert shown["how to get it"] == card.access
    assert shown["checked on"]
    assert len(card_text.layout(name)) >= 2
    assert max(map(len, card_text.layout(name))) <= 90, "a line of the page does not scroll"


# What a source gives is checked


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("sex", None, "the columns sex are missing"),
        ("image", ["x.png", "x.png"], "but 'x.png' has several"),
        ("image", ["x.png", ""], "column image must not be empty, as it is in 1 rows"),
        ("patient", [1, 2], "column patient must hold text in every row, not 1"),
        ("patient", ["1", np.nan], "column patient must hold text in every row, not nan"),
        ("path", [None, ""], "column path must hold text in every row, not nan"),
        ("Mass", [1.0, UNCERTAIN], "Mass hold -1 .*apply the policies with `resolve`"),
        ("Mass", [1.0, 0.5], "Mass holds 0.5"),
        ("Mass", [1, 0], "Mass must be of the type float, not int64"),
    ],
)
def test_a_collection_that_breaks_a_rule_is_refused(
    tmp_path: Path, column: str, values: list[object] | None, reason: str
) -> None:
    table = write(tmp_path / "t.csv", "image,patient,Mass", "x.png,1,1", "y.png,2,0")
    good = sources.read(table)
    rows = good.rows.drop(columns=column)
    rows = rows if values is None else rows.assign(**{column: values})
    with pytest.raises(SourceError, match=f"the source wards gives rows.*{reason}"):
        registry._checked(dataclasses.replace(good, rows=rows), "wards")


@pytest.mark.parametrize("name", ["nih", "phantoms", "chexpert"])
def test_a_table_is_not_called_like_a_shipped_source(tmp_path: Path, name: str) -> None:
    table = write(tmp_path / f"{name}.csv", "image,patient,Mass", "x.png,1,1")
    with pytest.raises(SourceError, match=f"{name}' belongs to .*state another one with `name:`"):
        sources.read(table)
    write(tmp_path / "columns.yaml", "name: ours")
    assert sources.read(table).name == "ours"


# Policies


def test_options_come_before_the_card() -> None:
    card = SourceCard("x", uncertain="ones", blank="unknown", views="all")
    assert policies(card, ReadOptions()) == {
        "uncertain": "ones",
        "blank": "unknown",
        "views": "all",
    }
    asked = ReadOptions(uncertain="zeros", blank="negative", views="PA,AP")
    assert policies(card, asked) == {"uncertain": "zeros", "blank": "negative", "views": "PA,AP"}


@pytest.mark.parametrize(("uncertain", "u"), [("zeros", 0), ("ones", 1), ("ignore", np.nan)])
@pytest.mark.parametrize(("blank", "b"), [("negative", 0), ("unknown", np.nan)])
def test_resolve_decides_the_uncertain_and_the_blank_and_nothing_else(
    uncertain: str, u: float, blank: str, b: float
) -> None:
    labels = pd.DataFrame({"Mass": [1.0, 0.0, UNCERTAIN, np.nan]})
    found = resolve(labels, {"uncertain": uncertain, "blank": blank})
    np.testing.assert_array_equal(found["Mass"], [1, 0, u, b])
    assert labels["Mass"].isna().sum() == 1  # the input stays


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ("frontal", ["PA", "AP", ""]),
        ("all", ["PA", "AP", "", "LATERAL", "COSTAL"]),
        ("PA", ["PA"]),
        (" pa , ap ", ["PA", "AP"]),
        ("LATERAL,COSTAL", ["LATERAL", "COSTAL"]),
    ],
)
def test_only_the_wanted_views_are_kept_and_the_others_are_counted(
    wanted: str, kept: list[str]
) -> None:
    names = ["PA", "AP", "", "LATERAL", "COSTAL"]
    rows = pd.DataFrame({"image": [f"{i}.png" for i in range(5)], "view": names})
    found, problems = only_views(rows, wanted)
    assert found["view"].tolist() == kept
    assert found.index.tolist() == list(range(len(kept)))
    assert [(p.code, p.count, p.loses) for p in problems] == (
        [] if len(kept) == 5 else [("other-view", 5 - len(kept), False)]
    )


def test_views_that_no_image_has_are_refused() -> None:
    rows = pd.DataFrame({"image": ["a.png", "b.png"], "view": ["LATERAL", ""]})
    with pytest.raises(SourceError, match=r"--views PA selects none of 2 images.*LATERAL, unknown"):
        only_views(rows, "PA")


def test_a_view_that_does_not_exist_is_refused_with_those_there_are() -> None:
    rows = pd.DataFrame({"image": ["a.png", "b.png"], "view": ["AP", "COSTAL"]})
    with pytest.raises(SourceError, match=r"XX is not a view of these images \(views: AP, COSTAL"):
        only_views(rows, "AP,XX")
    assert only_views(rows, "PA,AP")[0]["image"].tolist() == ["a.png"]  # PA exists, though not here


def test_nih_takes_the_views_that_are_asked_for(tmp_path: Path) -> None:
    table = write(
        tmp_path / "t.csv", NIH_HEADER,
        "00000001_000.png,Mass,0,1,50,F,PA", "00000002_000.png,Hernia,0,2,50,F,AP",
    )  # fmt: skip
    assert len(sources.read(table).rows) == 2
    collection = sources.read(table, options=ReadOptions(views="PA"))
    assert collection.rows["image"].tolist() == ["00000001_000.png"]
    assert collection.policies == {"uncertain": "ignore", "blank": "negative", "views": "PA"}
    (found,) = collection.problems
    assert (found.code, found.examples) == ("other-view", ("00000002_000.png (AP)",))


# Demographics


@pytest.mark.parametrize(
    ("written", "view"),
    [
        ("PA", "PA"), ("pa", "PA"), ("POSTEROANTERIOR", "PA"), ("Postero-Anterior", "PA"),
        ("PA erect", "PA"), ("AP", "AP"), ("AP_horizontal", "AP"), ("AP Supine", "AP"),
        ("ANTEROPOSTERIOR", "AP"), ("L", "LATERAL"), ("LL", "LATERAL"), ("RL", "LATERAL"),
        ("Lat", "LATERAL"), ("Left lateral", "LATERAL"), ("lateral", "LATERAL"), ("Frontal", ""),
        ("left lateral projection", "LATERAL"), ("postero-anterior projection", "PA"),
        ("", ""), ("unknown", ""), ("COSTAL", "COSTAL"), ("oblique", "OBLIQUE"),
    ],
)  # fmt: skip
def test_views_are_normalised(written: str, view: str) -> None:
    assert views(pd.Series([written], dtype="str")).tolist() == [view]


def test_sexes_are_normalised_and_odd_ones_reported() -> None:
    known, odd = sexes(pd.Series(["m", "Female", "", "Unknown", "Q"], dtype="str"))
    assert known.tolist() == ["M", "F", "", "", ""]
    assert odd.tolist() == [False, False, False, False, True]


# The split of NIH


def test_the_splits_of_nih_stay_what_they_were(real: Path) -> None:
    collection = sources.read(real / "nih-metadata" / "Data_Entry_2017_v2020.csv.gz")
    rows = collection.rows
    assert {part: len(names) for part, names in collection.official.items()} == {
        "train_val": 86_524, "test": 25_596
    }  # fmt: skip
    official = split.official(rows, nih.FINDINGS, collection.official, 0)
    assert split.split_sha256(rows["image"], official) == (
        "93b48ccb4d71fbd864e18adab4715c8349152c1e938a0232b0e78bab8647f170"
    )
    patient = split.patient(rows, nih.FINDINGS, 0)
    assert split.split_sha256(rows["image"], patient) == (
        "eb26ef3a0a4f59d91e65e9823d17237fcfe865eda2e983224b63b9d86ef6106d"
    )
