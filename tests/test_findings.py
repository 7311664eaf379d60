"""Findings as a value, and the vocabulary."""

from __future__ import annotations

import json
import pickle
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from chestxray.errors import FindingsError
from chestxray.findings import (
    NO_FINDING,
    Code,
    Findings,
    canonical,
    implied,
    key,
    label,
    probability_column,
    term,
    vocabulary,
)
from chestxray.sources.nih import FINDINGS

CHEXPERT = [
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
]
VINDR = [
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other diseases",
]
NIH_CXR_LT = [
    "Infiltration",
    "Effusion",
    "Atelectasis",
    "Nodule",
    "Mass",
    "Consolidation",
    "Pneumothorax",
    "Pleural Thickening",
    "Cardiomegaly",
    "Emphysema",
    "Edema",
    "Fibrosis",
    "Subcutaneous Emphysema",
    "Pneumonia",
    "Tortuous Aorta",
    "Calcification of the Aorta",
    "Pneumoperitoneum",
    "Hernia",
    "Pneumomediastinum",
]
PADCHEST = [
    "pleural effusion",
    "pleural thickening",
    "nodule",
    "mass",
    "infiltrates",
    "pulmonary fibrosis",
    "hiatal hernia",
    "emphysema",
    "cardiomegaly",
    "atelectasis",
    "laminar atelectasis",
    "pneumonia",
    "consolidation",
    "pulmonary edema",
]


# A value


def test_findings_are_a_tuple_that_keeps_its_order() -> None:
    some = Findings(["Mass", "Effusion", "My own"])
    assert some == ("Mass", "Effusion", "My own")
    assert some[1] == "Effusion"
    assert list(some) == ["Mass", "Effusion", "My own"]
    assert repr(some) == "Findings(['Mass', 'Effusion', 'My own'])"
    assert json.loads(json.dumps(some)) == list(some)


def test_equal_findings_have_one_hash_and_another_order_is_another_value() -> None:
    one, two = Findings(["Mass", "Edema"]), Findings(["Mass", "Edema"])
    assert {one: 1}[two] == 1
    assert hash(one) == hash(two)
    assert Findings(["Edema", "Mass"]) != one
    assert pickle.loads(pickle.dumps(one)) == one  # noqa: S301 - our own bytes


@pytest.mark.parametrize("count", [1, 40])
def test_one_finding_works_and_so_do_forty(count: int) -> None:
    assert len(Findings(f"Finding {number}" for number in range(count))) == count


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([], "empty: name at least one"),
        ("Mass", r"not a single text: give \['Mass'\]"),
        (["Mass", "Mass"], "'Mass' and 'Mass' are the same finding"),
        (["Mass", "mass"], "'Mass' and 'mass' are the same finding"),
        (["Effusion", "Pleural effusion"], "are the same finding"),
        (["Pleural_Thickening", "P.T."], "are the same finding"),
        ([""], "must not be empty"),
        ([" Mass"], "single spaces"),
        (["a  b"], "single spaces"),
        (["a\nb"], "single spaces"),
        (["a\x00b"], "control characters"),
        (["a\u202eb"], "control characters"),
        (["x" * 65], "at most 64 characters"),
        ([3], "is text, not int"),
        (["split"], "tables use it for something else"),
        (["Follow_up"], "tables use it for something else"),
        (["No Finding"], "tables use it for something else"),
        (["no_finding"], "tables use it for something else"),
        *[([f"a{sign}b"], "none of") for sign in "|,;\"'`<>\\{}[]="],
    ],
)  # fmt: skip
def test_names_that_cannot_be_findings_are_refused(names: list[str], reason: str) -> None:
    with pytest.raises(FindingsError, match=reason):
        Findings(names)


@given(st.lists(st.text(max_size=70), max_size=5))
def test_any_names_are_findings_or_a_findings_error(names: list[str]) -> None:
    try:
        found = Findings(names)
    except FindingsError:
        return
    assert list(found) == names
    assert len({key(name) for name in found}) == len(found)


def test_a_place_is_found_under_any_spelling() -> None:
    assert FINDINGS.place("pleural thickening") == FINDINGS.index("Pleural_Thickening")
    assert FINDINGS.place("Pleural effusion") == 2
    assert FINDINGS.place("Pleural Other") is None
    assert Findings(["My own"]).place("my_OWN") == 0


def test_common_findings_are_matched_by_meaning_in_the_order_of_the_first() -> None:
    assert Findings(["Mass", "Effusion", "Edema"]).common(
        ["pleural effusion", "Fracture", "MASS"]
    ) == [(0, 2), (1, 0)]
    assert Findings(["Mass"]).common(["Nodule"]) == []


def test_a_union_keeps_the_first_and_adds_what_is_new() -> None:
    union = Findings(["Mass", "Effusion"]).union(["Pleural effusion", "Edema", "mass"])
    assert union == ("Mass", "Effusion", "Edema")
    assert Findings(["Mass"]).union([]) == ("Mass",)


class _Model(BaseModel):
    findings: Findings


def test_pydantic_reads_and_writes_a_list_of_names() -> None:
    model = _Model.model_validate_json('{"findings": ["Mass", "Rib Fracture"]}')
    assert isinstance(model.findings, Findings)
    assert model.model_dump(mode="json") == {"findings": ["Mass", "Rib Fracture"]}
    assert _Model(findings=Findings(["Mass"])).findings == ("Mass",)  # from a value too
    with pytest.raises(ValidationError, match="same finding"):
        _Model.model_validate({"findings": ["Mass", "mass"]})
    schema = _Model.model_json_schema()["properties"]["findings"]
    assert (schema["type"], schema["items"]) == ("array", {"type": "string"})


# Names


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Pleural Effusion", "Effusion"), ("pleural effusion", "Effusion"),
        ("PLEURAL_THICKENING", "Pleural_Thickening"), ("P.T.", "Pleural_Thickening"),
        ("infiltrates", "Infiltration"), ("Airspace Opacity", "Lung Opacity"),
        ("Nodule or mass", "Nodule/Mass"), ("Other disease", "Other Diseases"),
        ("No_Finding", NO_FINDING), ("No finding", NO_FINDING), (" My  own ", "My own"),
    ],
)  # fmt: skip
def test_spellings_have_one_canonical_name(written: str, name: str) -> None:
    assert canonical(written) == name
    assert key(written) == key(name)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pleural Other", "Pleural_Thickening"), ("Lung Lesion", "Nodule/Mass"),
        ("Nodule", "Pseudonodule"), ("Emphysema", "Subcutaneous Emphysema"),
        ("Mass", "Mediastinal Mass"), ("Fracture", "Rib Fracture"), ("ILD", "Fibrosis"),
        ("Tortuous Aorta", "Aortic Elongation"), ("COPD", "COPD Signs"), ("Massive", "Mass"),
    ],
)  # fmt: skip
def test_names_that_do_not_mean_the_same_are_not_merged(one: str, other: str) -> None:
    assert key(one) != key(other)


def test_a_label_is_written_for_people() -> None:
    assert label("Pleural_Thickening") == "Pleural thickening"
    assert label("Rib Fracture") == "Rib Fracture"
    assert probability_column("Rib Fracture") == "prob_Rib Fracture"


# The vocabulary


@pytest.mark.parametrize("names", [FINDINGS, CHEXPERT, VINDR, NIH_CXR_LT, PADCHEST])
def test_the_lists_of_public_data_sets_are_findings_of_the_vocabulary(names: list[str]) -> None:
    assert all(term(name) is not None for name in names)
    Findings(names)


def test_seven_of_nihs_findings_are_in_chexpert() -> None:
    """The figure of the data sets' own documentation."""
    common = [FINDINGS[here] for here, _ in FINDINGS.common(CHEXPERT)]
    assert common == [
        "Atelectasis", "Cardiomegaly", "Effusion", "Pneumonia", "Pneumothorax", "Consolidation",
        "Edema",
    ]  # fmt: skip


def test_every_name_and_synonym_belongs_to_one_term() -> None:
    spellings = [
        " ".join(word.casefold().replace("_", " ").split())
        for name, entry in vocabulary().items()
        for word in (name, *entry.synonyms)
    ]
    assert len(spellings) == len(set(spellings))
    Findings(vocabulary())


def test_implications_lead_to_known_broader_findings_and_never_back() -> None:
    for name, entry in vocabulary().items():
        assert set(entry.implies) <= set(vocabulary())
        assert name not in implied(name)


@pytest.mark.parametrize(
    ("finer", "broader"),
    [
        ("Nodule", "Lung Lesion"), ("Mass", "Lung Lesion"), ("Nodule/Mass", "Lung Lesion"),
        ("Nodule", "Lung Opacity"), ("Edema", "Lung Opacity"), ("Consolidation", "Lung Opacity"),
        ("Pneumonia", "Lung Opacity"), ("Atelectasis", "Lung Opacity"),
        ("Lung Lesion", "Lung Opacity"), ("Cardiomegaly", "Enlarged Cardiomediastinum"),
        ("Rib Fracture", "Fracture"), ("Clavicle Fracture", "Fracture"),
        ("Pacemaker", "Support Devices"), ("Dual chamber device", "Support Devices"),
        ("Pleural thickening", "Pleural Other"),
    ],
)  # fmt: skip
def test_a_finer_finding_implies_the_broader_and_not_the_other_way(
    finer: str, broader: str
) -> None:
    assert broader in implied(finer)
    assert canonical(finer) not in implied(broader)


def test_implied_findings_are_given_nearest_first() -> None:
    assert implied("Nodule") == ("Nodule/Mass", "Lung Lesion", "Lung Opacity")
    assert implied("My own") == ()


def test_every_description_is_one_short_sentence() -> None:
    for entry in vocabulary().values():
        assert re.fullmatch(r"[A-Z][^.]*\d? ?[^.]*\.", entry.description), entry.name
        assert len(entry.description) <= 80


def test_every_code_is_well_formed_and_names_one_finding() -> None:
    """Codes are SNOMED CT identifiers with a valid check digit, or DICOM's six digits."""
    codes = [code for entry in vocabulary().values() for code in entry.codes]
    assert len({(code.scheme, code.value) for code in codes}) == len(codes)
    for code in codes:
        assert 0 < len(code.meaning) <= 64
        if code.scheme == "SCT":
            assert _verhoeff(code.value), code
        else:
            assert re.fullmatch(r"11\d{4}", code.value)
            assert code.scheme == "DCM"


def test_the_code_of_a_hernia_is_as_broad_as_its_description() -> None:
    """NIH's label is any hernia that a chest radiograph shows, not the hiatal one alone."""
    entry = term("Hiatal hernia")
    assert entry is not None
    assert entry.description == "Hiatal or other diaphragmatic hernia."
    assert entry.codes == (Code("39839004", "SCT", "Diaphragmatic hernia"),)


def test_codes_of_the_standard_are_the_standards_own() -> None:
    """As pydicom has them, which generates its tables from PS3.16."""
    from pydicom.sr._concepts_dict import concepts

    standard = {
        (scheme, value): meanings[0]
        for scheme in ("SCT", "DCM")
        for codes in concepts[scheme].values()
        for value, meanings in codes.items()
    }
    checked = 0
    for entry in vocabulary().values():
        for code in entry.codes:
            if code.scheme == "DCM":
                assert standard[code.scheme, code.value] == code.meaning
                checked += 1
    assert checked >= 8
    assert term("Pneumothorax").codes == (Code("36118008", "SCT", "Pneumothorax"),)  # type: ignore[union-attr]


def _verhoeff(number: str) -> bool:
    """The check of SNOMED CT identifiers (SNOMED CT Release File Specification, Verhoeff)."""
    turn = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)

    def multiply(a: int, b: int) -> int:  # in the dihedral group of order 10
        if a < 5:
            return (a + b) % 5 if b < 5 else 5 + (a + b - 5) % 5
        return 5 + (a - 5 - b) % 5 if b < 5 else (a - b) % 5

    total = 0
    for place, digit in enumerate(map(int, reversed(number))):
        for _ in range(place % 8):
            digit = turn[digit]  # noqa: PLW2901
        total = multiply(total, digit)
    return total == 0


def test_names_are_looked_up_fast() -> None:
    key("Mass")
    start = time.process_time()
    for _ in range(20_000):
        key("pleural effusion"), canonical("Mass"), term("nodule")
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("name", ["images", "Patients", "bytes"])
def test_names_of_counts_are_not_findings(name):
    with pytest.raises(FindingsError, match="tables use it for something else"):
        Findings([name])
