"""How long the report of findings takes to make: the gateway's encoder against highdicom.

    python benchmarks/structured_report.py [--findings 14] [--repeats 30]

Both make the same content (one TID 1501 group per finding with certainty, threshold and call) and
write the file into memory. They take turns, so that the load of the machine affects both alike.
Printed are medians of processor time in milliseconds, and their ratio.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from highdicom import sr
from pydicom import Dataset, dcmread

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from chestxray.reading.reader import Reading
from chestxray.serving.result_objects import codes, structured_report
from chestxray.serving.result_objects.instance import Model
from chestxray.serving.source_image import SourceImage
from chestxray.version import __version__
from dicom_files import written
from gateway_parts import radiograph

CERTAINTY = 0.73
THRESHOLD = 0.5
MODEL = Model("densenet121-0123456789ab", "ab" * 32, __version__, "phantoms", "{}")


def ours(source: SourceImage, reading: Reading) -> bytes:
    """The report by the gateway's encoder."""
    thresholds = dict.fromkeys(reading.probabilities, THRESHOLD)
    return _file(structured_report.report(source, MODEL, reading, thresholds))


def by_highdicom(image: Dataset, reading: Reading) -> bytes:
    """The same content by highdicom."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=MODEL.device,
        name="chestxray",
        manufacturer_name="chestxray",
        model_name=MODEL.name,
        serial_number=MODEL.weights,
    )
    observer = sr.ObserverContext(codes.DEVICE, device)
    shown = sr.SourceImageForMeasurementGroup.from_source_image(image)
    groups = [
        sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(MODEL.uid(finding), finding),
            finding_type=codes.finding(finding),
            source_images=[shown],
            measurements=[
                sr.Measurement(name=name, value=100 * share, unit=codes.PERCENT)
                for name, share in ((codes.CERTAINTY, CERTAINTY), (codes.THRESHOLD, THRESHOLD))
            ],
            qualitative_evaluations=[sr.QualitativeEvaluation(codes.CALLED, codes.YES)],
        )
        for finding in reading.probabilities
    ]
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.PROCEDURE,
        imaging_measurements=groups,
        title=codes.REPORT,
    )
    report = sr.Comprehensive3DSR(
        evidence=[image],
        content=content[0],
        series_instance_uid=MODEL.uid("series"),
        series_number=1,
        sop_instance_uid=MODEL.uid("report"),
        instance_number=1,
        manufacturer="chestxray",
        is_complete=True,
        is_final=False,
        is_verified=False,
    )
    return _file(report)


def _file(report: Dataset) -> bytes:
    buffer = io.BytesIO()
    report.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--findings", type=int, default=14)
    parser.add_argument("--repeats", type=int, default=30)
    asked = parser.parse_args()
    findings = [f"Finding {number}" for number in range(asked.findings)]
    heat = np.zeros((7, 7), np.float32)
    reading = Reading(
        dict.fromkeys(findings, CERTAINTY),
        dict.fromkeys(findings, True),
        dict.fromkeys(findings, heat),
        (),
        MODEL.name,
    )
    data = written(radiograph())
    source, image = SourceImage.read(data, "ab" * 32), dcmread(io.BytesIO(data))
    taken: dict[str, list[float]] = {"chestxray": [], "highdicom": []}
    for _ in range(asked.repeats):
        for name, make in (
            ("chestxray", lambda: ours(source, reading)),
            ("highdicom", lambda: by_highdicom(image, reading)),
        ):
            started = time.process_time()
            make()
            taken[name].append(1000 * (time.process_time() - started))
    medians = {name: statistics.median(times) for name, times in taken.items()}
    for name, median in medians.items():
        print(f"{name}: {median:.1f} ms")
    print(f"ratio: {medians['highdicom'] / medians['chestxray']:.1f}")


if __name__ == "__main__":
    main()
