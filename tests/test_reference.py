"""Adjudicated labels: read by name, mapped as stated, and NIH's own labels held against them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as oracle

from chestxray.errors import SourceError
from chestxray.evaluation.bootstrap import Draws
from chestxray.evaluation.labels import Pairs
from chestxray.evaluation.reference import FINDINGS_OF_LABEL, agreement, any_of, read, reference
from chestxray.findings import Findings
from chestxray.sources.nih import FINDINGS
from evaluation_parts import dumped, pairs_of

COLUMNS = ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")
N = 240
IMAGES = [f"{row // 2:08d}_{row % 2:03d}.png" for row in range(N)]


def adjudicated(seed: int = 0) -> pd.DataFrame:
    """The first 200 images, 150 of them of set `test`."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(rng.choice(["YES", "NO"], (200, 4), p=[0.3, 0.7]), columns=list(COLUMNS))
    table.insert(0, "Image Index", IMAGES[:200])
    return table.assign(**{"Set Id": ["test"] * 150 + ["val"] * 50, "Finding Labels": "Mass"})


def predicted(table: pd.DataFrame, seed: int = 0) -> Pairs:
    """Every image predicted; NIH's labels agree with the reference in four of five images."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((N, len(FINDINGS))) < 0.1).astype(float)
    for label, findings in FINDINGS_OF_LABEL.items():
        yes = np.append(table[label] == "YES", [False] * (N - len(table)))
        told = np.where(rng.random(N) < 0.2, ~yes, yes)
        labels[:, [FINDINGS.index(finding) for finding in findings]] = 0
        labels[:, FINDINGS.index(findings[0])] = told
    logits = labels + rng.normal(size=labels.shape)
    return pairs_of(
        labels,
        1 / (1 + np.exp(-logits)),
        np.arange(N) // 2,
        images=np.array(IMAGES, dtype=object),
    )


def measured(path: Path, pairs: Pairs, draws: Draws, part: str = "test") -> Any:
    return dumped(reference(path, pairs, draws, part))


def write(folder: Path, table: pd.DataFrame) -> Path:
    path = folder / "google2019.csv"
    table.to_csv(path, index=False)
    return path


def test_metrics_are_those_of_the_largest_probability_against_either_truth(tmp_path: Path) -> None:
    table = adjudicated()
    pairs = predicted(table)
    result = measured(write(tmp_path, table), pairs, Draws.of(pairs.patients, 200))
    assert (result["images"], result["patients"]) == (150, 75)
    for label, findings in FINDINGS_OF_LABEL.items():
        entry = result["labels"][label]
        places = [FINDINGS.index(finding) for finding in findings]
        score = pairs.probabilities[:150, places].max(axis=1)
        y = (table[label] == "YES").to_numpy()[:150]
        nih = (pairs.labels[:150, places] == 1).any(axis=1)
        auroc, nih_auroc = oracle.roc_auc_score(y, score), oracle.roc_auc_score(nih, score)
        assert entry["positives"] == y.sum()
        assert entry["nih_positives"] == nih.sum()
        assert entry["auroc"]["value"] == pytest.approx(auroc, abs=1e-12)
        assert entry["auprc"]["value"] == pytest.approx(
            oracle.average_precision_score(y, score), abs=1e-12
        )
        assert entry["nih_auroc"]["value"] == pytest.approx(nih_auroc, abs=1e-12)
        assert entry["difference"]["value"] == pytest.approx(auroc - nih_auroc, abs=1e-12)
        assert entry["difference"]["low"] < entry["difference"]["high"]
        told = entry["agreement"]
        assert told["sensitivity"]["value"] == pytest.approx(oracle.recall_score(y, nih))
        assert told["specificity"]["value"] == pytest.approx(oracle.recall_score(~y, ~nih))
        assert told["kappa"]["value"] == pytest.approx(oracle.cohen_kappa_score(y, nih))
        assert 0.2 < told["kappa"]["low"] < told["kappa"]["high"] < 0.9
    json.dumps(result, allow_nan=False)


def test_every_image_left_out_is_counted(tmp_path: Path) -> None:
    table = adjudicated()
    pairs = predicted(table)
    table.loc[199, "Image Index"] = "00099999_000.png"
    result = measured(write(tmp_path, table), pairs, Draws.of(pairs.patients, 0), "val")
    assert result["images"] == 49
    assert result["of_other_sets"] == 150
    assert result["without_reference"] == 41
    assert result["without_prediction"] == 1
    assert set(result["not_covered"]) == {"Fracture"}


def test_without_a_common_image_there_is_no_figure_but_a_reason(tmp_path: Path) -> None:
    table = adjudicated()
    pairs = predicted(table)
    table["Image Index"] = [f"1{name}" for name in table["Image Index"]]
    result = measured(write(tmp_path, table), pairs, Draws.of(pairs.patients, 50))
    assert result["images"] == 0
    entry = result["labels"]["Pneumothorax"]
    assert entry["auroc"]["value"] is None
    assert entry["auroc"]["reason"] == "no positives and no negatives"
    assert entry["agreement"]["kappa"]["value"] is None


def test_an_image_whose_nih_label_is_unknown_is_left_out_of_both_figures(tmp_path: Path) -> None:
    table = adjudicated()
    pairs = predicted(table)
    pairs.labels[:10, FINDINGS.index("Pneumothorax")] = np.nan
    result = measured(write(tmp_path, table), pairs, Draws.of(pairs.patients, 0))
    assert result["labels"]["Pneumothorax"]["images"] == 140
    assert result["labels"]["Nodule or mass"]["images"] == 150


def test_any_copy_of_the_table_is_read_by_its_titles(tmp_path: Path) -> None:
    table = adjudicated()
    wanted = read(write(tmp_path, table))
    other = table[table.columns[::-1]].rename(
        columns={"Airspace opacity": "Airspace_Opacity", "Image Index": "ImageIndex"}
    )
    other["Pneumothorax"] = other["Pneumothorax"].str.lower()
    (tmp_path / "other.csv.gz").write_bytes(gzip.compress(other.to_csv(index=False).encode()))
    pd.testing.assert_frame_equal(read(tmp_path / "other.csv.gz"), wanted)


def test_a_table_without_sets_is_taken_whole(tmp_path: Path) -> None:
    table = adjudicated().drop(columns="Set Id")
    pairs = predicted(table)
    result = measured(write(tmp_path, table), pairs, Draws.of(pairs.patients, 0))
    assert (result["images"], result["of_other_sets"]) == (200, 0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda t: t.drop(columns="Nodule or mass"), "lacks Nodule or mass"),
        (lambda t: pd.concat([t, t.iloc[:2]]), r"duplicate image name in 2 rows"),
        (
            lambda t: t.assign(Fracture="MAYBE"),
            "Fracture is 'MAYBE' in a row: it must be YES or NO",
        ),
    ],
)
def test_a_table_with_a_fault_is_refused(tmp_path: Path, fault, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(SourceError, match=message):
        read(write(tmp_path, fault(adjudicated())))


def test_an_unknown_finding_counts_only_where_no_other_is_present() -> None:
    labels = np.array([[1, np.nan], [0, np.nan], [0, 0], [0, 1]])
    assert np.array_equal(any_of(labels), [1, np.nan, 0, 1], equal_nan=True)


def test_agreement_is_undefined_where_a_class_is_missing() -> None:
    found = agreement(np.array([[0.0, 0, 10, 0]]))
    assert np.isnan(found["sensitivity"][0])
    assert found["specificity"][0] == 1
    assert np.isnan(found["kappa"][0])


def test_the_mapping_names_findings_and_no_finding_twice() -> None:
    named = [finding for findings in FINDINGS_OF_LABEL.values() for finding in findings]
    assert set(named) <= set(FINDINGS)
    assert len(set(named)) == len(named)


def test_the_real_table_is_read_whole(real: Path) -> None:
    table = read(real / "nih-metadata" / "google2019_nih-chest-xray-labels.csv.gz")
    assert table["set"].value_counts().to_dict() == {"val": 2414, "test": 1962}
    positives = table.groupby("set")[list(COLUMNS)].sum().astype(int)
    assert positives.loc["test"].tolist() == [72, 195, 1135, 295]
    assert positives.loc["val"].tolist() == [114, 43, 1031, 310]


def test_a_label_whose_findings_were_not_all_evaluated_is_not_covered(tmp_path: Path) -> None:
    table = adjudicated()
    pairs = predicted(table)
    kept = Findings(["Pneumothorax", "Mass"])
    columns = [FINDINGS.index(name) for name in kept]
    fewer = pairs_of(
        pairs.labels[:, columns],
        pairs.probabilities[:, columns],
        pairs.patients,
        kept,
        images=pairs.images,
    )
    result = measured(write(tmp_path, table), fewer, Draws.of(pairs.patients, 0))
    assert list(result["labels"]) == ["Pneumothorax"]
    assert result["not_covered"]["Nodule or mass"] == "not evaluated: Nodule"
    assert "Fracture" in result["not_covered"]


def test_images_of_a_dataset_are_found_by_their_file_name(tmp_path: Path) -> None:
    table = adjudicated()
    pairs = predicted(table)
    named = np.array([f"nih/images/{name}" for name in IMAGES], dtype=object)
    inside = pairs_of(pairs.labels, pairs.probabilities, pairs.patients, images=named)
    draws = Draws.of(pairs.patients, 0)
    path = write(tmp_path, table)
    assert measured(path, inside, draws) == measured(path, pairs, draws)
