"""Label tables with a million rows: time and memory are bounded, larger ones are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from chestxray import sources, table_limits
from chestxray.errors import SourceError

FINDINGS = ("Effusion", "Mass", "Pneumonia", "Edema", "Fracture")
ROWS = 1_000_000
READ = """
import sys, time
from pathlib import Path
from chestxray import sources
from chestxray.dataset import split
start = time.process_time()
read = sources.read(sys.argv[1])
parts = split.assign(read.rows.assign(source="t"), read.findings, "patient", 0, {"t": {}})
assert parts.groupby(read.rows["patient"]).nunique().max() == 1
status = Path("/proc/self/status").read_text()  # ru_maxrss holds that of the parent, too
peak = int(status.split("VmHWM:")[1].split()[0])
print(len(read.rows), read.rows["patient"].nunique(), time.process_time() - start, peak // 1024)
"""


def lines(rows: int) -> Iterator[str]:
    """A table of three images a patient, a quarter of them lateral."""
    cells = np.array(["0", "1", ""])[np.random.default_rng(0).integers(0, 3, (rows, 5))]
    yield "image,patient,view,age,sex," + ",".join(FINDINGS)
    for row, labels in enumerate(cells):
        view, sex = ("PA" if row % 4 else "LL"), "MF"[row // 3 % 2]
        yield f"{row:08d}.png,p{row // 3:07d},{view},{20 + row % 70},{sex},{','.join(labels)}"


@pytest.mark.slow
def test_a_million_rows_are_read_and_split_within_a_minute_and_a_gigabyte(tmp_path: Path) -> None:
    table = tmp_path / "labels.csv"
    with table.open("w", encoding="utf-8") as file:
        file.writelines(f"{line}\n" for line in lines(ROWS))
    run = subprocess.run(
        [sys.executable, "-c", READ, str(table)],
        check=True, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    count, patients, seconds, megabytes = run.stdout.split()
    assert int(count) == ROWS * 3 // 4
    assert int(patients) == -(-ROWS // 3)
    assert float(seconds) < 60, "of processor time; 12 on an AMD EPYC"
    assert int(megabytes) < 1024, "707 where it was measured"


def test_a_table_beyond_the_limit_is_refused_with_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(lines(1000)), encoding="utf-8")
    assert len(sources.read(table).rows) == 750
    monkeypatch.setattr(table_limits, "LONGEST", 10_000)
    with pytest.raises(SourceError, match=r"has more than 0 MB unpacked, the most that is read"):
        sources.read(table)
