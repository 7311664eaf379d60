"""Requests made up from the service's own description: no failure, no status it does not name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings

import chestxray
from chestxray.serving.admission import Limits
from chestxray.serving.web import create_app
from web_server import ready

PATHS = {
    ("POST", "/v1/read"),
    ("POST", "/v1/read/batch"),
    ("GET", "/v1/model"),
    ("GET", "/v1/examples"),
    ("GET", "/v1/examples/{name}.png"),
    ("GET", "/healthz"),
    ("GET", "/readyz"),
    ("GET", "/metrics"),
}


@pytest.fixture(scope="module")
def schema(run: Path) -> Iterator[schemathesis.BaseSchema]:
    reader = chestxray.load(run / "bundle", "torch")
    with ready(create_app(reader, Limits(max_upload_bytes=2**16, decoders=1))) as client:
        yield schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


@pytest.mark.parametrize(("method", "path"), sorted(PATHS))
def test_no_request_makes_it_fail_or_say_what_it_does_not_declare(schema, method, path):
    operation = schema[path][method]

    @seed(0)
    @settings(
        max_examples=40,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def fuzz(case: schemathesis.Case) -> None:
        response = case.call()
        assert response.status_code < 500
        case.validate_response(
            response,
            excluded_checks=[
                # Bytes that are no image are data by the schema, and refused.
                schemathesis.checks.positive_data_acceptance,
                schemathesis.checks.unsupported_method,
            ],
        )

    fuzz()


def test_every_operation_is_fuzzed(schema):
    described = {
        (method.upper(), path)
        for path, methods in schema.raw_schema["paths"].items()
        for method in methods
    }
    assert described == PATHS
