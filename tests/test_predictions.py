"""The table of predictions: written and read back, others' variants understood, faults refused."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chestxray.errors import ArtifactError, PredictionsError
from chestxray.evaluation import predictions
from chestxray.evaluation.predictions import Predictions
from chestxray.findings import Findings
from chestxray.sources.nih import FINDINGS
from evaluation_parts import COLUMNS, PROBABILITIES, rows_of, write

NAMES = ["00000001_000.png", "00000001_001.png", "00000002_000.png"]


def made() -> pd.DataFrame:
    return rows_of(NAMES, np.random.default_rng(0).random((3, 14)))


def test_a_table_survives_writing_and_reading_to_the_last_bit(tmp_path: Path) -> None:
    write(tmp_path / "p.csv", made())
    pd.testing.assert_frame_equal(
        predictions.read(tmp_path / "p.csv").rows, made(), check_dtype=False
    )
    header = (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()[0]
    assert header.startswith("Image Index,prob_Atelectasis,prob_Cardiomegaly,")
    assert header.endswith(",prob_Hernia,status,reason")


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations([*COLUMNS, "extra"]))
def test_columns_are_read_by_name_in_any_order(tmp_path: Path, order: list[str]) -> None:
    made().assign(extra="x,y")[order].to_csv(tmp_path / "p.csv", index=False)
    read = predictions.read(tmp_path / "p.csv")
    assert list(read.rows.columns) == list(predictions.columns(read.findings))
    assert list(read.findings) == [c.removeprefix("prob_") for c in order if c in PROBABILITIES]
    pd.testing.assert_frame_equal(read.rows[list(COLUMNS)], made(), check_dtype=False)


def test_others_tables_without_status_and_with_other_spellings_are_read(tmp_path: Path) -> None:
    table = made().drop(columns=["status", "reason"])
    table = table.rename(columns={"prob_Pleural_Thickening": "prob_Pleural Thickening"})
    table.insert(0, "", range(3))
    table.to_csv(tmp_path / "p.csv", index=False, encoding="utf-8-sig")
    read = predictions.read(tmp_path / "p.csv")
    assert set(read.rows["status"]) == {"ok"}
    assert np.array_equal(read.probabilities, made()[list(PROBABILITIES)].to_numpy())


def test_a_failed_row_needs_no_probabilities_and_keeps_its_reason(tmp_path: Path) -> None:
    table = made()
    table.loc[1, list(PROBABILITIES)] = np.nan
    table.loc[1, ["status", "reason"]] = ["error", "truncated, 12 bytes"]
    write(tmp_path / "p.csv", table)
    read = predictions.read(tmp_path / "p.csv")
    assert read.rows.loc[1, "reason"] == "truncated, 12 bytes"
    assert np.isnan(read.probabilities[1]).all()


def set_cell(value: object) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype({"prob_Mass": object})
        table.loc[1, "prob_Mass"] = value
        return table

    return change


def scaled(rule: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        columns = list(PROBABILITIES)
        return table.assign(**rule(table[columns]))

    return change


FAULTS = {
    "no finding": (lambda t: t.drop(columns=list(PROBABILITIES)), "one column prob_<Finding>"),
    "no image column": (lambda t: t.drop(columns="Image Index"), "needs 'Image Index'"),
    "a finding twice": (
        lambda t: t.assign(**{"prob_P.T.": 0.5}),
        "'Pleural_Thickening' and 'P.T.' are the same finding",
    ),
    "an image twice": (
        lambda t: pd.concat([t, t.iloc[[1]]]),
        r"duplicate image name in 1 row \(00000001_001",
    ),
    "no name": (lambda t: t.assign(**{"Image Index": ""}), "3 rows without an image name"),
    "empty": (set_cell(""), r"1 of 42 values is missing.*_001.png, prob_Mass = nan"),
    "nan": (set_cell("nan"), "1 of 42 values is missing"),
    "infinity": (set_cell("inf"), "1 of 42 values is infinite.*prob_Mass = inf"),
    "minus infinity": (set_cell("-inf"), "is infinite"),
    "a stray above": (set_cell(2.5), r"is outside \[0, 1\], the others inside.*_001.*= 2.5"),
    "a stray below": (set_cell(-0.1), r"is outside \[0, 1\], the others inside.*= -0.1"),
    "a word": (set_cell("high"), r"'high' is not a number \(00000001_001.png, prob_Mass\)"),
    "per cent signs": (set_cell("12%"), "'12%' is not a number"),
    "logits": (scaled(lambda p: np.log(p / (1 - p))), "looks like logits: apply a sigmoid"),
    "one column of logits": (
        scaled(lambda p: p.assign(prob_Mass=[-3.0, -2.0, 4.0])),
        "3 of 42 .*looks like logits.*prob_Mass = -3",
    ),
    "percentages": (scaled(lambda p: p * 100), "looks like percentages: divide by 100"),
    "another scale": (scaled(lambda p: p * 1000), r"are outside \[0, 1\]: give probabilities"),
    "no rows": (lambda t: t.iloc[:0], "a header but no rows"),
}


@pytest.mark.parametrize(("change", "message"), FAULTS.values(), ids=FAULTS)
def test_a_table_with_a_fault_is_refused_with_the_fault(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    change(made()).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(PredictionsError, match=message):
        predictions.read(tmp_path / "p.csv")


def written_lines(tmp_path: Path) -> list[str]:
    write(tmp_path / "p.csv", made())
    return (tmp_path / "p.csv").read_text(encoding="utf-8").splitlines()


def read_lines(tmp_path: Path, lines: list[str]) -> Predictions:
    (tmp_path / "p.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return predictions.read(tmp_path / "p.csv")


def test_a_row_cut_short_or_with_a_value_too_many_is_refused_by_its_line(tmp_path: Path) -> None:
    lines = written_lines(tmp_path)
    with pytest.raises(PredictionsError, match="line 4: 3 values under 17 column names"):
        read_lines(tmp_path, [*lines[:3], lines[3][:50]])
    with pytest.raises(PredictionsError, match="line 3: 18 values under 17 column names"):
        read_lines(tmp_path, [*lines[:2], lines[2] + ",0.5", lines[3]])
    trailing = [lines[0], *(line + "," for line in lines[1:])]
    assert len(read_lines(tmp_path, trailing).rows) == 3


def test_a_row_without_status_is_held_to_be_good_and_must_have_its_probabilities(
    tmp_path: Path,
) -> None:
    table = made().assign(status="")
    table.to_csv(tmp_path / "p.csv", index=False)
    assert set(predictions.read(tmp_path / "p.csv").rows["status"]) == {"ok"}
    table.assign(prob_Mass=np.nan).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(PredictionsError, match="3 of 42 values are missing"):
        predictions.read(tmp_path / "p.csv")


def test_a_gzipped_table_is_read_as_the_plain_one(tmp_path: Path) -> None:
    made().to_csv(tmp_path / "p.csv.gz", index=False)
    read = predictions.read(tmp_path / "p.csv.gz")
    assert np.array_equal(read.probabilities, made()[list(PROBABILITIES)].to_numpy())


def test_the_whole_data_set_is_read_in_seconds(tmp_path: Path) -> None:
    tail = ",".join(f"{value:.17g}" for value in np.random.default_rng(0).random(14))
    rows = (f"{row:08d}_000.png,{tail},ok," for row in range(112_120))
    (tmp_path / "p.csv").write_text("\n".join([",".join(COLUMNS), *rows]))
    start = time.process_time()
    assert len(predictions.read(tmp_path / "p.csv").rows) == 112_120
    assert time.process_time() - start < 15  # 2.2 s on one core of 2026


def test_a_column_that_stands_twice_is_refused(tmp_path: Path) -> None:
    twice = pd.concat([made(), made()[["prob_Mass"]]], axis=1)
    twice.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(PredictionsError, match="'Mass' and 'Mass' are the same finding"):
        predictions.read(tmp_path / "p.csv")


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"\x89PNG\r\n\x1a\n\xff\x00", b"a,b\n1,2\n"):
        (tmp_path / "p.csv").write_bytes(content)
        with pytest.raises(PredictionsError):
            predictions.read(tmp_path / "p.csv")
    with pytest.raises(ArtifactError, match="chestxray predict"):
        predictions.read(tmp_path / "none.csv")


def test_logits_cannot_be_written_as_predictions(tmp_path: Path) -> None:
    logits = np.linspace(-6, 3, 42).reshape(3, 14)
    with pytest.raises(PredictionsError, match="looks like logits"):
        write(tmp_path / "p.csv", rows_of(NAMES, logits))
    assert not list(tmp_path.iterdir())


def test_all_findings_have_a_column() -> None:
    assert len(PROBABILITIES) == len(FINDINGS) == 14


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".jsonl"])
def test_every_format_survives_writing_and_reading_to_the_last_bit(
    tmp_path: Path, suffix: str
) -> None:
    table = made()
    table.loc[1, list(PROBABILITIES)] = np.nan
    table.loc[1, ["status", "reason"]] = ["error", "truncated, 12 bytes"]
    path = write(tmp_path / f"p{suffix}", table)
    read = predictions.read(path)
    assert read.findings == FINDINGS
    pd.testing.assert_frame_equal(read.rows, table, check_dtype=False)
    assert predictions.is_table(path)


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".jsonl"])
def test_one_finding_outside_the_vocabulary_is_read(tmp_path: Path, suffix: str) -> None:
    one = Findings(["Pacemaker"])
    path = write(tmp_path / f"p{suffix}", rows_of(NAMES, np.full((3, 1), 0.25), one), one)
    read = predictions.read(path)
    assert read.findings == ("Pacemaker",)
    assert read.probabilities.tolist() == [[0.25]] * 3


def test_others_json_lines_and_parquet_need_no_status(tmp_path: Path) -> None:
    lines = [f'{{"prob_Mass": 0.5, "Image Index": "{name}", "more": [1]}}' for name in NAMES]
    (tmp_path / "p.jsonl").write_text("\n".join([*lines, ""]), encoding="utf-8")
    frame = pd.DataFrame({"prob_Mass": np.float32([0.5] * 3), "Image Index": NAMES})
    frame.to_parquet(tmp_path / "p.parquet")
    for suffix in ("jsonl", "parquet"):
        read = predictions.read(tmp_path / f"p.{suffix}")
        assert read.probabilities.tolist() == [[0.5]] * 3
        assert set(read.rows["status"]) == {"ok"}


@pytest.mark.parametrize(
    ("suffix", "content", "message"),
    [
        ("jsonl", b'{"Image Index": "a", "prob_Mass": "high"}', "'high' is not a number"),
        ("jsonl", b'{"Image Index": "a", "prob_Mass": true}', "True is not a number"),
        ("jsonl", b'{"Image Index": "a", "prob_Mass": 0.5}\n[1]', "line 2: .* not a JSON object"),
        ("jsonl", b'{"Image Index": "a", "prob_Mass": 0.5}\n{"Im', "not a table of JSON lines"),
        ("jsonl", b'{"Image Index": "a", "prob_Mass": null}', "1 of 1 values is missing"),
        ("jsonl", b"", "has no columns|needs 'Image Index'"),
        ("parquet", b"not parquet", "not a Parquet table"),
        ("csv.gz", b"not gzip", "not a CSV table"),
    ],
)
def test_a_faulty_file_of_another_format_is_refused(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    path = tmp_path / f"p.{suffix}"
    path.write_bytes(content)
    with pytest.raises(PredictionsError, match=message):
        predictions.read(path)
    (tmp_path / f"other.{suffix}").write_bytes(b"\xff\x00")
    assert not predictions.is_table(tmp_path / f"other.{suffix}")


def test_a_table_made_in_memory_is_checked_like_a_file() -> None:
    with pytest.raises(PredictionsError, match=r"the table of predictions: .*looks like logits"):
        predictions.checked(Predictions(FINDINGS, rows_of(NAMES, np.full((3, 14), -2.0))))


@pytest.mark.parametrize("suffix", [".CSV", ".csv.GZ", ".PARQUET", ".JSONL"])
def test_a_suffix_in_capitals_is_the_same_format(tmp_path: Path, suffix: str) -> None:
    plain = write(tmp_path / f"p{suffix.lower()}", made())
    path = plain.rename(tmp_path / f"q{suffix}")
    assert predictions.is_table(path)
    pd.testing.assert_frame_equal(Predictions.read(str(path)).rows, made(), check_dtype=False)
    again = write(tmp_path / f"r{suffix}", made())
    pd.testing.assert_frame_equal(Predictions.read(again).rows, made(), check_dtype=False)


def test_lines_that_are_no_objects_are_no_table(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text("[1]\n", encoding="utf-8")
    assert not predictions.is_table(tmp_path / "p.jsonl")
