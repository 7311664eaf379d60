"""The log cannot be filled: each place in the code has its own share."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from chestxray.serving.log_rate import RateLimitedHandler
from conftest import Clock


@pytest.fixture
def written() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(clock: Clock, written: io.StringIO) -> Iterator[logging.Logger]:
    handler = RateLimitedHandler(clock)
    handler.setStream(written)
    logger = logging.getLogger("flooded")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield logger
    logger.removeHandler(handler)


def test_80_seconds_of_a_flood_write_less_than_a_megabyte(logger, clock, written):
    for _ in range(80 * 500):
        clock.seconds += 1 / 500
        logger.error("x" * 1900)
    assert 300_000 < len(written.getvalue()) < 1_000_000


def test_a_flood_of_one_place_hides_no_other_and_its_number_is_told(logger, clock, written):
    for number in range(1000):
        if number == 999:
            clock.seconds = 60
        logger.warning("%s", "x" * 1000)
        if number == 500:
            logger.info("someone else")
    lines = written.getvalue().splitlines()
    assert lines.count("someone else") == 1
    kept = lines.count("x" * 1000)
    assert 60 < kept < 70
    assert f"{1000 - kept} records like the next one were left out" in lines[-2]
    assert lines[-1] == "x" * 1000


def test_an_ordinary_log_is_complete(logger, clock, written):
    for number in range(2000):
        clock.seconds += 1 / 50
        logger.info("POST /v1/read 200 %d", number)
    assert len(written.getvalue().splitlines()) == 2000
