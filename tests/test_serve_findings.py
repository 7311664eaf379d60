"""The web service with one, five and forty findings, also with names outside the vocabulary."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator

import chestxray
from chestxray.findings import Findings, label, term
from chestxray.serving.admission import Limits
from chestxray.serving.web import create_app, example_png
from finding_sets import FIVE, FORTY, HOSTILE, ONE, write_bundle
from web_server import ready


@pytest.fixture(scope="module", params=[ONE, FIVE, HOSTILE, FORTY], ids=lambda f: str(len(f)))
def findings(request) -> Findings:
    return request.param


@pytest.fixture(scope="module")
def reader(run: Path, tmp_path_factory: pytest.TempPathFactory, findings):
    folder = write_bundle(run, tmp_path_factory.mktemp("bundle"), findings)
    return chestxray.load(folder, "torch")


@pytest.fixture(scope="module")
def client(reader) -> Iterator[httpx.Client]:
    with ready(create_app(reader, Limits(decoders=1))) as client:
        yield client


def test_a_reading_has_the_bundles_findings_in_their_order(client, reader, findings):
    radiograph = example_png("clear")
    response = client.post(
        "/v1/read", files={"file": radiograph}, params={"heatmaps": "json"}
    ).json()
    reading = reader.read(radiograph)
    assert [row["finding"] for row in response["findings"]] == list(findings)
    for row in response["findings"]:
        name = row["finding"]
        assert row["label"] == {"Pleural_Thickening": "Pleural thickening"}.get(name, label(name))
        assert row["probability"] == pytest.approx(reading.probabilities[name], abs=1e-6)
        assert row["threshold"] == reader.bundle.card.thresholds[name]
        assert row["called"] == reading.calls[name]
        heat = response["heatmaps"]["maps"][name]
        assert np.allclose(heat, reading.heatmaps[name], atol=1e-5)
    query = {"heatmaps": "png"}
    drawn = client.post("/v1/read", files={"file": radiograph}, params=query).json()["heatmaps"]
    assert list(drawn["pictures"]) == list(findings)


def test_the_model_card_describes_the_findings_of_the_vocabulary(client, reader, findings):
    card = client.get("/v1/model").json()
    assert [row["finding"] for row in card["findings"]] == list(findings)
    for row in card["findings"]:
        known = term(row["finding"])
        assert row["description"] == (known.description if known else "")
        assert row["threshold"] == reader.bundle.card.thresholds[row["finding"]]
    unfitted = {row["finding"] for row in card["findings"] if not row["calibrated"]}
    assert unfitted == set(reader.bundle.card.calibration.unfitted)


def test_the_interface_describes_every_answer_whatever_the_findings(client):
    schema = client.get("/openapi.json").json()
    answers = {
        "ReadResult": client.post(
            "/v1/read",
            files={"file": example_png("mass")},
            params={"heatmaps": "png", "display": "true"},
        ),
        "ModelCardResult": client.get("/v1/model"),
        "ProblemDetails": client.post("/v1/read", files={"file": b"nothing"}),
    }
    for name, answer in answers.items():
        rule = {"$ref": f"#/components/schemas/{name}", "components": schema["components"]}
        errors = [*Draft202012Validator(rule).iter_errors(json.loads(answer.content))]
        assert errors == [], name
