"""The reader of Open-i, on small trees in its layouts and on the real reports of the wheel."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pandas as pd
import pytest

import public_trees
import small_trees
import torchxrayvision_wheel
from chestxray import sources
from chestxray.dataset import prepare
from chestxray.errors import SourceError
from chestxray.findings import implied
from chestxray.sources import ReadOptions, openi_reports
from chestxray.sources.openi_terms import FINDINGS, LEFT_OUT, MAY_MEAN, TERMS, headings, split_term
from public_trees import Film, change, codes

BUILDERS: dict[str, Callable[..., Path]] = {
    "png": small_trees.openi,
    "dicom": lambda root, films: small_trees.openi(root, films, as_dicom=True),
    "kaggle": small_trees.openi_kaggle,
}
every_form = pytest.mark.parametrize("form", BUILDERS)
ALL = ReadOptions(views="all")


@pytest.fixture(scope="module")
def films(phantoms: Path) -> list[Film]:
    return public_trees.films(phantoms, 12)


@pytest.fixture
def build(films: list[Film], tmp_path: Path) -> Callable[[str], Path]:
    return lambda form: BUILDERS[form](tmp_path / form, films)


def film_of(image: str, films: list[Film]) -> Film:
    return films[int(image.removeprefix("CXR").split("_")[0]) - 1]


@every_form
def test_every_form_gives_the_frontal_images_with_the_labels_of_their_study(
    build: Callable[[str], Path], films: list[Film], form: str
) -> None:
    tree = build(form)
    assert sources.recognise(tree).name == "openi"
    read = sources.read(tree)
    assert len(read.rows) == len(films)
    assert read.rows["patient"].tolist() == read.rows["study"].tolist()
    for row in read.rows.to_dict("records"):
        film = film_of(row["image"], films)
        assert row["patient"] == f"CXR{film.number + 1}"
        assert "-1001" in row["image"], "a lateral image is left out"
        for finding in ("Cardiomegaly", "Effusion", "Pneumothorax", "Hernia"):
            assert row[finding] == float(finding in film.findings), (row["image"], finding)
    found = codes(read)
    assert found.pop("other-view") == len(films)
    assert found.pop("view-from-header", 0) == (24 if form == "dicom" else 0)
    assert not found
    everything = sources.read(tree, options=ALL).rows
    assert everything["view"].value_counts().to_dict() == {
        "LATERAL": 12, ("" if form == "kaggle" else "PA"): 12,
    }  # fmt: skip


@every_form
def test_every_form_becomes_a_dataset_of_the_films(
    build: Callable[[str], Path], films: list[Film], tmp_path: Path, form: str
) -> None:
    dataset = prepare(build(form), tmp_path / "dataset", size=64, allow_empty=True)
    assert dataset.manifest.failures == ()
    for row, values in enumerate(dataset.index.to_dict("records")):
        packed = dataset.images[np.array([row])][0].astype(int)
        assert np.abs(packed - film_of(values["image"], films).pixels).max() <= 1


def test_images_whose_view_is_stated_nowhere_are_not_taken_for_frontal_ones(
    build: Callable[[str], Path],
) -> None:
    tree = build("png")
    (tree / "nlmcxr_dicom_metadata.csv").unlink()
    with pytest.raises(SourceError, match=r"selects none of 24 images \(views: UNSTATED\)"):
        sources.read(tree)
    assert len(sources.read(tree, options=ALL).rows) == 24


def test_reports_in_an_archive_are_read_alone_like_those_in_the_folder(
    build: Callable[[str], Path], tmp_path: Path
) -> None:
    tree = build("png")
    packed = small_trees.placed(tmp_path / "packed" / "NLMCXR_reports.tgz", b"")
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tree / "ecgen-radiology", "ecgen-radiology")
    alone, whole = (sources.read(path, options=ALL).rows for path in (packed, tree))
    assert (alone["view"] == "UNSTATED").all()
    both = [rows.drop(columns=["path", "view"]) for rows in (alone, whole)]
    pd.testing.assert_frame_equal(*both)
    packed.write_bytes(packed.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"NLMCXR_reports\.tgz is damaged .* download it again"):
        sources.read(packed)


# Terms


def of_terms(tmp_path: Path, *terms: str) -> dict[str, float]:
    """The labels of a study with these terms."""
    report = small_trees.openi_report(1, terms, ["CXR1_IM-0001"])
    path = tmp_path / "reports.tgz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("ecgen-radiology/1.xml")
        member.size = len(report.encode())
        archive.addfile(member, io.BytesIO(report.encode()))
    row = sources.read(path, options=ALL).rows.iloc[0]
    return {finding: float(row[finding]) for finding in FINDINGS}


def test_a_finer_term_makes_the_broader_present_and_a_broader_one_leaves_the_finer_open(
    tmp_path: Path,
) -> None:
    found = of_terms(tmp_path, "Fractures, Bone/ribs/left/healed")
    assert (found["Rib Fracture"], found["Fracture"], found["Clavicle Fracture"]) == (1, 1, 0)
    found = of_terms(tmp_path, "Opacity/lung/base/left")
    assert found["Lung Opacity"] == 1
    assert all(np.isnan(found[name]) for name in ("Infiltration", "Edema", "Atelectasis", "Nodule"))
    assert (found["Effusion"], found["Emphysema"]) == (0, 0)
    found = of_terms(tmp_path, "Opacity/lung/base", "Infiltrate/lung/base", "Opacity/ribs")
    assert (found["Lung Opacity"], found["Infiltration"], found["Edema"]) == (1, 1, 0)


@pytest.mark.parametrize(
    ("term", "open_", "absent"),
    [
        ("Opacity/mediastinum", "Lung Opacity", "Effusion"),
        ("Cicatrix/lung/apex", "Fibrosis", "Lung Opacity"),
        ("Cardiac Shadow/enlarged/mild", "Cardiomegaly", "Mediastinal Shift"),
        ("Pulmonary Congestion/mild", "Edema", "Effusion"),
        ("Lung/hilum/left/prominent", "Hilar Enlargement", "Nodule"),
        ("Nodule/pleura", "Nodule", "Mass"), ("Deformity/ribs/left", "Rib Fracture", "Nodule"),
    ],
)  # fmt: skip
def test_a_term_that_may_mean_a_finding_leaves_it_unknown(
    tmp_path: Path, term: str, open_: str, absent: str
) -> None:
    found = of_terms(tmp_path, term)
    assert np.isnan(found[open_])
    assert found[absent] == 0


@pytest.mark.parametrize(
    "terms", [("No Indexing",), ("Technical Quality of Image Unsatisfactory ",), (), ("",)]
)
def test_a_report_that_was_not_indexed_says_nothing(tmp_path: Path, terms: tuple[str, ...]) -> None:
    assert all(np.isnan(value) for value in of_terms(tmp_path, *terms).values())


def test_terms_are_matched_whatever_their_case_and_spaces_but_never_in_part(tmp_path: Path) -> None:
    found = of_terms(tmp_path, "Subcutaneous  Emphysema/right", "PERICARDIAL effusion")
    assert (found["Subcutaneous Emphysema"], found["Emphysema"], found["Effusion"]) == (1, 0, 0)
    assert of_terms(tmp_path, "normal")["Support Devices"] == 0


def test_a_heading_that_is_not_known_leaves_open_what_its_report_does_not_name(
    build: Callable[[str], Path],
) -> None:
    for form in ("png", "kaggle"):
        tree = build(form)
        if form == "kaggle":
            change(
                tree / "indiana_reports.csv",
                lambda t: t.assign(MeSH=["Ovni/lung;Pneumothorax", *t["MeSH"][1:]]),
            )
        else:
            path = tree / "ecgen-radiology/1.xml"
            report = small_trees.openi_report(
                1, ["Ovni/lung", "Pneumothorax"], ["CXR1_IM-0000-1001", "CXR1_IM-0000-2001"]
            )
            path.write_text(report)
        read = sources.read(tree)
        assert codes(read)["unknown-label"] == 2
        row = read.rows.set_index("patient").loc["CXR1"]
        assert row["Pneumothorax"] == 1
        assert row[["Effusion", "Cardiomegaly"]].isna().all()


# Hostile reports


BILLION_LAUGHS = (
    '<?xml version="1.0"?><!DOCTYPE eCitation [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;">]><eCitation><uId id="CXR1"/><MeSH><major>&c;</major></MeSH>'
    '<parentImage id="CXR1_IM-0000-1001"/></eCitation>'
)
OUTSIDE = BILLION_LAUGHS.replace('<!ENTITY a "ha">', '<!ENTITY a SYSTEM "file:///etc/passwd">')


@pytest.mark.parametrize(
    "data",
    [
        BILLION_LAUGHS.encode(), OUTSIDE.encode(), BILLION_LAUGHS.encode("utf-16"),
        b"\xef\xbb\xbf" + BILLION_LAUGHS.encode(), b"<eCitation><uId", b"", b"\xff\xfe\xfd",
        b'<eCitation><uId id=""/></eCitation>', b'<other><uId id="CXR1"/></other>',
        b"<eCitation>" * 20_000, b"<eCitation>" + b" " * 300_000 + b"</eCitation>",
        b'<?xml version="1.0" encoding="utf-7"?><eCitation><uId id="C+AFg-"/>\xe4</eCitation>',
    ],
    ids=["entities", "outside", "utf-16", "mark", "cut", "empty", "no text", "no study", "other",
         "deep", "long", "utf-7"],
)  # fmt: skip
def test_a_hostile_report_is_refused_without_expanding_anything(
    build: Callable[[str], Path], data: bytes
) -> None:
    assert openi_reports.parsed(data) is None
    tree = build("png")
    (tree / "ecgen-radiology/1.xml").write_bytes(data)
    read = sources.read(tree)
    assert codes(read)["unreadable-report"] == 1
    assert codes(read)["missing-row"] == 2
    assert "CXR1" not in set(read.rows["patient"])


def test_a_deep_report_is_read_or_refused_but_breaks_nothing() -> None:
    deep = b'<eCitation><uId id="CXR1"/>' + b"<a>" * 30_000 + b"</a>" * 30_000 + b"</eCitation>"
    report = openi_reports.parsed(deep)
    assert report is None or report.study == "CXR1"


def test_an_archive_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reports.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, size in (("ecgen-radiology/1.xml", 10), ("zeros", 10**6)):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
    monkeypatch.setattr(openi_reports, "_MOST_BYTES", 10**5)
    with pytest.raises(SourceError, match="the most that is read"):
        sources.read(path)
    monkeypatch.setattr(openi_reports, "_MOST", 0)
    with pytest.raises(SourceError, match="more than 0 reports"):
        sources.read(path)


def _header(kind: bytes, size: int) -> bytes:
    """A block of 512 bytes, as the standard library writes it for a member of this type."""
    member = tarfile.TarInfo("x")
    member.type, member.size = kind, size
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[482] = int(kind == tarfile.GNUTYPE_SPARSE)  # a block of places of a sparse file follows
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("head", "block", "blocks"),
    [
        (_header(tarfile.XHDTYPE, 2**24), bytes(512), 2**15),
        (_header(tarfile.XGLTYPE, 2**24), bytes(512), 2**15),
        (_header(tarfile.GNUTYPE_LONGNAME, 2**24), b"a" * 512, 2**15),
        (_header(tarfile.XHDTYPE, 0), _header(tarfile.XHDTYPE, 0), 20_000),
        (_header(tarfile.GNUTYPE_SPARSE, 0), bytes(504) + b"\1" + bytes(7), 20_000),
    ],
    ids=["header", "global header", "long name", "headers of headers", "sparse file"],
)
@pytest.mark.parametrize("place", [0, 1])
def test_headers_of_an_archive_are_not_read_into_memory_whatever_they_state(
    tmp_path: Path, head: bytes, block: bytes, blocks: int, place: int
) -> None:
    path = tmp_path / "NLMCXR_reports.tgz"
    path.write_bytes(gzip.compress(_header(tarfile.REGTYPE, 0) * place + head + block * blocks, 1))
    tracemalloc.start()
    try:
        assert not openi_reports.has_reports(path)
        with pytest.raises(SourceError, match=r"is damaged .*download it again"):
            openi_reports.read_reports(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * 2**20
    finally:
        tracemalloc.stop()


# Hostile tables


def test_kaggles_tables_with_a_mark_and_windows_line_ends_and_doubled_rows_are_the_same(
    build: Callable[[str], Path],
) -> None:
    tree = build("kaggle")
    before = sources.read(tree)
    for path in tree.glob("*.csv"):
        change(path, lambda t: pd.concat([t, t]))
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = sources.read(tree)
    pd.testing.assert_frame_equal(before.rows, after.rows)
    assert codes(after) == {"repeated-row": 24, "other-view": 12}
    alone = sources.read(tree / "indiana_projections.csv").rows
    pd.testing.assert_frame_equal(alone.drop(columns="path"), before.rows.drop(columns="path"))


def test_kaggles_studies_without_a_report_or_with_two_are_unknown_and_counted(
    build: Callable[[str], Path],
) -> None:
    tree = build("kaggle")
    table = tree / "indiana_reports.csv"
    change(table, lambda t: pd.concat([t[1:], t[1:2].assign(MeSH="Pneumothorax/tiny")]))
    change(
        tree / "indiana_projections.csv",
        lambda t: t.assign(projection=[*t["projection"][:-1], ""]),
    )
    read = sources.read(tree)
    assert codes(read) == {
        "no-report": 2, "conflicting-rows": 1, "no-label": 4, "other-view": 12,
    }  # fmt: skip
    rows = read.rows.set_index("patient")
    assert rows.loc[["CXR1", "CXR2"], list(FINDINGS)].isna().all(axis=None)
    table.unlink()
    with pytest.raises(SourceError, match=r"has indiana_projections\.csv, but no table of reports"):
        sources.read(tree)


@every_form
def test_missing_images_and_images_without_a_row_are_counted(
    build: Callable[[str], Path], form: str
) -> None:
    tree = build(form)
    before = sources.read(tree)
    first = Path(before.rows["path"].iloc[0])
    first.rename(first.with_name(f"CXR9999_IM-0001{first.suffix}"))
    after = sources.read(tree)
    assert (codes(after)["missing-image"], codes(after)["missing-row"]) == (1, 1)
    assert after.rows["image"].tolist() == before.rows["image"].tolist()[1:]


def test_a_tree_without_reports_is_refused_with_what_to_put_there(tmp_path: Path) -> None:
    small_trees.placed(tmp_path / "ecgen-radiology/1.txt", b"")
    with pytest.raises(SourceError, match=r"holds no reports of Open-i \(ecgen-radiology/1\.xml"):
        sources.read(tmp_path, "openi")
    small_trees.placed(tmp_path / "ecgen-radiology/1.xml", b"")
    with pytest.raises(SourceError, match=r"has no report that can be read, such as 1\.xml"):
        sources.read(tmp_path, "openi")


# The real reports


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reports and the table of headers that torchxrayvision's wheel ships."""
    wheel = torchxrayvision_wheel.downloaded()
    folder = tmp_path_factory.mktemp("openi")
    for name in ("NLMCXR_reports.tgz", "nlmcxr_dicom_metadata.csv.gz"):
        (folder / name).write_bytes(wheel.read(f"torchxrayvision/data/{name}"))
    return folder / "NLMCXR_reports.tgz"


@pytest.fixture(scope="module")
def plain(packed: Path) -> pd.DataFrame:
    """A row per image by a plain reading of the XML: study, major and automatic terms."""
    rows = []
    with tarfile.open(packed) as archive:
        for name in archive.getnames():
            if name.endswith(".xml"):
                file = archive.extractfile(name)
                root = ET.parse(file).getroot()  # type: ignore[arg-type]  # noqa: S314
                terms = {
                    kind: [node.text for node in root.iter(kind)] for kind in ("major", "automatic")
                }
                study = root.find("uId").get("id")  # type: ignore[union-attr]
                images = [node.get("id") for node in root.iter("parentImage")] or [None]
                rows += [[image, study, terms["major"], terms["automatic"]] for image in images]
    return pd.DataFrame(rows, columns=["image", "study", "major", "automatic"])


def test_every_heading_of_the_real_reports_is_a_finding_or_is_left_out_for_a_reason(
    plain: pd.DataFrame,
) -> None:
    studies = plain.drop_duplicates("study")
    assert len(studies) == 3_955
    seen = Counter(split_term(term)[0] for terms in studies["major"] for term in terms)
    assert set(seen) == headings()
    assert len(seen) == 119
    assert seen["normal"] == 1_391
    left_out = [heading for of in LEFT_OUT.values() for heading in of]
    named = {pattern.partition("/")[0] for of in TERMS.values() for pattern in of}
    whole = {pattern for of in (*TERMS.values(), MAY_MEAN) for pattern in of if "/" not in pattern}
    assert not set(left_out) & whole
    assert len(left_out) == len(set(left_out))
    assert {name for of in MAY_MEAN.values() for name in of} <= set(FINDINGS)
    assert named <= headings()


def test_the_real_reports_give_their_images_views_and_present_findings(
    packed: Path, plain: pd.DataFrame
) -> None:
    read = sources.read(packed, options=ALL)
    images = plain.dropna(subset="image").set_index("image")
    assert len(read.rows) == len(images) == 7_470
    assert read.rows["patient"].nunique() == 3_851
    assert read.facts["images of the data set"] == "all: 7470 of 7470"
    table = pd.read_csv(packed.with_name("nlmcxr_dicom_metadata.csv.gz"), dtype=str)
    stated = table.set_index("imageid")["View Position"].fillna("")
    assert len(stated) == 7_469
    assert stated.value_counts().to_dict() == {
        "PA": 3_593, "": 2_586, "LL": 717, "AP": 423, "LATERAL": 119, "RL": 29, "LARGE LATERAL": 2,
    }  # fmt: skip
    unlisted = stated[~stated.index.isin(images.index)]
    assert unlisted.tolist() == ["PA", "PA"], "no report names them"
    assert read.rows["view"].value_counts().to_dict() == {
        "PA": 3_593 - 2, "AP": 423, "LATERAL": 717 + 119 + 29, "LARGE LATERAL": 2,
        "UNSTATED": 2_586 + 3,  # three images are not in the table
    }  # fmt: skip
    assert [(p.code, p.count) for p in read.problems] == [("no-label", 186)]
    rows = read.rows.set_index("image").loc[images.index]
    words = [[split_term(term) for term in terms] for terms in images["major"]]
    for finding in FINDINGS:
        finer = [name for name in FINDINGS if finding in {name, *implied(name)}]
        patterns = [pattern.partition("/") for name in finer for pattern in TERMS[name]]
        present = [
            any(
                heading == wanted and {*needed.split("+")} - {""} <= qualifiers
                for heading, qualifiers in terms
                for wanted, _, needed in patterns
            )
            for terms in words
        ]
        assert np.array_equal(rows[finding] == 1, present), finding
    normal = [terms == ["normal"] for terms in images["major"]]
    assert (rows.loc[normal, list(FINDINGS)] == 0).all(axis=None)
    assert sum(normal) > 2_000


@pytest.mark.slow
def test_labels_differ_from_torchxrayvisions_only_where_the_terms_or_a_named_rule_do(
    packed: Path, plain: pd.DataFrame
) -> None:
    """Theirs are parts of automatic terms. Rules: whole words, finer findings, unknown ones."""
    code = (
        "read = xrv.datasets.Openi_Dataset(sys.argv[1], views=['*'], unique_patients=False)\n"
        "read.csv['labels'] = [''.join(str(int(v)) for v in row) for row in read.labels]\n"
        "print('names', *(n.replace(' ', '~') for n in read.pathologies))\n"
        "for key, labels in zip(read.csv.imageid, read.csv.labels): print('row', key, labels)\n"
    )
    said = [line.split() for line in torchxrayvision_wheel.answer(code, packed.parent).splitlines()]
    names = next(words[1:] for words in said if words[:1] == ["names"])
    theirs = pd.DataFrame(
        {words[1]: [int(v) for v in words[2]] for words in said if words[:1] == ["row"]},
        index=[name.replace("~", " ") for name in names],
    ).T
    images = plain.dropna(subset="image").set_index("image").loc[theirs.index]
    ours = sources.read(packed, options=ALL).rows.set_index("image").loc[theirs.index]
    automatic = images["automatic"].map("|".join).str.casefold()
    words = {
        "Cardiomegaly": "cardiomegaly", "Emphysema": "emphysema", "Pneumothorax": "pneumothorax",
        "Effusion": "effusion", "Hernia": "hernia", "Pneumonia": "pneumonia",
        "Calcified Granuloma": "calcified granuloma", "Fracture": "fracture", "Edema": "edema",
        "Fibrosis": "fibrosis", "Mass": "mass", "Nodule": "nodule", "Granuloma": "granuloma",
    }  # fmt: skip
    parts = {"Emphysema": "subcutaneous|mediastinal", "Effusion": "pericardial|hydropneumothorax"}
    majors = images["major"].map("|".join).str.casefold()
    for finding, word in words.items():
        assert np.array_equal(theirs[finding] == 1, automatic.str.contains(word)), finding
        same = majors.str.contains(word) == automatic.str.contains(word)
        assert same.mean() > 0.95, "the indexers and the program name the same in most reports"
        known = same & ours[finding].notna() & ~majors.str.contains(parts.get(finding, "^$"))
        assert np.array_equal(ours[finding][known], theirs[finding][known]), finding
        assert ours[finding][known].sum() > 0
