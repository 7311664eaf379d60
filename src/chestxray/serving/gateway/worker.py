"""The worker: claims an image, reads it, and writes the result objects into the outbox.

It may be killed at any moment: what it held is claimed again and makes the same result objects
(their UIDs are derived); those already in the outbox stay as they are.

An image file is read, hashed and decoded once for each attempt, in a decoder process that the
worker keeps (`image_decoding`). A file that exceeds a limit is dead at once; one during which the
decoder ended is read again.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

from chestxray.artifacts import sha256, write_once
from chestxray.errors import ImageError, RefusedError
from chestxray.findings import key
from chestxray.reading.gate.notices import ANOTHER_KIND
from chestxray.reading.reader import Reader, Reading
from chestxray.serving import result_objects
from chestxray.serving.gateway import image_decoding, logs
from chestxray.serving.gateway.config import Config, Destination, Rule
from chestxray.serving.gateway.image_decoding import DecodedImage, Decoder
from chestxray.serving.gateway.integrity import is_damage
from chestxray.serving.gateway.queue import Task, exit_after
from chestxray.serving.gateway.readings import Figures
from chestxray.serving.gateway.store import READ, Image, Result, Store
from chestxray.serving.source_image import SourceImage

_IDLE_SECONDS: Final = 0.1
_PAUSE_SECONDS: Final = 30.0  # after a failure of the machine, not of the image
_log = logging.getLogger(__name__)


class _ReadImage(NamedTuple):
    """An image after reading: what was decoded, and what the reader said."""

    decoded: DecodedImage
    outcome: Reading | RefusedError


def run(config: Config, reader: Reader, stop: threading.Event, name: str) -> None:
    """Read images until told to stop; a reading in progress is completed.

    Args:
        config: of the gateway.
        reader: the model.
        stop: set when the worker shall end.
        name: name of this worker, by which its successor releases what it held.
    """
    store = Store(config.state)
    decoder = image_decoding.decoder(reader.size, config.read.lease)
    must_release = False
    try:
        decoder.start()  # before an image is claimed: it takes seconds
        while not stop.is_set():
            try:
                if must_release:
                    store.release(READ, name, died=False)
                    must_release = False
                busy = _read_next(config, reader, decoder, store, name)
            except sqlite3.OperationalError as error:  # a full disk, on which no row can be written
                must_release = True
                extra = {"event": "postponed"}
                _log.error("the queue cannot be written: %s", error, extra=extra)
                stop.wait(_PAUSE_SECONDS)
            else:
                stop.wait(0 if busy else _IDLE_SECONDS)
    finally:
        decoder.close()
        store.close()


def handle(task: Task, config: Config, reader: Reader, decoder: Decoder, store: Store) -> None:
    """Read one image and record the outcome, or the failure."""
    started = time.monotonic()
    image = store.image(task.item)
    about = {"uid": image.uid, "source": image.source}
    try:
        read = _read(image, reader, decoder, store)
        results = list(_write_results(image, read, config, reader, store))
        refusal = _reason(read.outcome) if isinstance(read.outcome, RefusedError) else ""
        bundle = reader.bundle
        store.remember_model(bundle.identity, bundle.card)
        figures = _figures(read, reader, time.monotonic() - started)
        store.finish_reading(
            task, bundle.identity, results, refusal, dry_run=config.dry_run, figures=figures
        )
    except ImageError as error:  # another attempt would fail too
        store.fail(task, error.reason, max_attempts=0)
        _log.error("image dead: %s", error.reason, extra={"event": "dead", **about})
    except (OSError, sqlite3.OperationalError) as error:  # a full disk: not the image's fault
        _log.error("image postponed: %s", error, extra={"event": "postponed", **about})
        store.defer(task, str(error), _PAUSE_SECONDS)
    except Exception as error:
        if is_damage(error):
            raise
        reason = logs.place(error)
        dead = store.fail(task, reason, config.read.attempts)
        extra = {"event": "dead" if dead else "failed", **about}
        _log.error("image failed: %s", reason, extra=extra)
    else:
        event, seconds = "refused" if refusal else "read", round(time.monotonic() - started, 3)
        _log.info("image %s", event, extra={"event": event, "seconds": seconds, **about})


def receives(to: Destination, image: Image, outcome: Reading | RefusedError) -> bool:
    """Tell whether a destination receives the results of an image."""
    return not to.rules or any(_holds(rule, image, outcome) for rule in to.rules)


def _read_next(config: Config, reader: Reader, decoder: Decoder, store: Store, name: str) -> bool:
    """Read one image; give False where none is due."""
    task = store.claim(READ, config.read.lease, config.read.attempts, name)
    if task is None:
        return False
    with exit_after(config.read.lease):
        handle(task, config, reader, decoder, store)
    return True


def _read(image: Image, reader: Reader, decoder: Decoder, store: Store) -> _ReadImage:
    path = store.image_file(image.uid)
    try:
        decoded = image_decoding.decoded(decoder, image.uid, path, image.sha256)
    except FileNotFoundError as error:
        raise ImageError(path, "the file is missing from the state folder") from error
    outcome: Reading | RefusedError
    try:
        outcome = reader.read(decoded.judged)
    except RefusedError as refusal:
        outcome = refusal
    return _ReadImage(decoded, outcome)


def _write_results(
    image: Image, read: _ReadImage, config: Config, reader: Reader, store: Store
) -> Iterator[Result]:
    """Write the result objects that a destination receives into the outbox."""
    if isinstance(read.outcome, RefusedError) and not config.read.send_refusals:
        return
    receivers = [to for to in config.destinations if receives(to, image, read.outcome)]
    kinds = {kind for to in receivers for kind in to.send}
    # All are made before one is written: a file without a row would stay in the outbox.
    source, picture = read.decoded.source, read.decoded.picture
    results = list(result_objects.make(source, picture, read.outcome, reader, kinds))
    write_once({store.result_file(made.uid): made.content for made in results})
    for made in results:
        names = [to.name for to in receivers if made.kind in to.send]
        yield Result(made.uid, made.kind, sha256(store.result_file(made.uid)), names)


def _figures(read: _ReadImage, reader: Reader, seconds: float) -> Figures:
    """Give the figures of a reading; those of an image of another kind are not measured."""
    outcome, patient = read.outcome, patient_of(read.decoded.source)
    if isinstance(outcome, RefusedError):
        refusing = {notice.code for notice in outcome.notices if notice.refuses}
        measures = None if refusing & ANOTHER_KIND else outcome.measures
        codes = [notice.code for notice in outcome.notices]
        return Figures(seconds, patient, refused=True, notices=codes, measures=measures)
    of_all = {notice.code for notice in reader.warnings}
    return Figures(
        seconds,
        patient,
        refused=False,
        notices=[notice.code for notice in outcome.warnings if notice.code not in of_all],
        probabilities=list(outcome.probabilities.values()),
        calls=list(outcome.calls.values()),
        measures=outcome.measures,
    )


def patient_of(source: SourceImage) -> str:
    """Give a text by which radiographs of a patient are known; of the image where none is."""
    number = source.values.get("PatientID", "")
    issuer = source.values.get("IssuerOfPatientID", "")
    return f"{issuer}\n{number}" if number else source.uid


def _holds(rule: Rule, image: Image, outcome: Reading | RefusedError) -> bool:
    return (
        _calls_hold(rule, outcome)
        and (not rule.modalities or image.modality in rule.modalities)
        and (not rule.calling or image.source in rule.calling)
    )


def _calls_hold(rule: Rule, outcome: Reading | RefusedError) -> bool:
    if not rule.findings and rule.called is None:
        return True
    if isinstance(outcome, RefusedError):
        return False
    called = {key(finding) for finding, call in outcome.calls.items() if call}
    if rule.findings:
        return not called.isdisjoint(map(key, rule.findings))
    return bool(called) == rule.called


def _reason(refusal: RefusedError) -> str:
    """Give the codes of a refusal: its sentences quote the header, which may name a patient."""
    return "; ".join(notice.code for notice in refusal.notices if notice.refuses)
