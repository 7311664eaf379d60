"""The legitimate clients of the soak, who send hostile files too, as a hospital's senders might."""

from __future__ import annotations

import contextlib
import itertools
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hostile_traffic import PLANTED, with_uid
from pydicom.filereader import read_file_meta_info
from pynetdicom import AE, _config
from soak_parts import Soak

from gateway_parts import radiograph

HOSTILE_EVERY = 20
SENDERS, CLIENTS = 4, 2
PATIENCE_SECONDS = 120.0  # after the end
TOLERANCE = 1e-4

_config.STORE_SEND_CHUNKED_DATASET = True  # files are sent as they are, hostile ones too


def senders(soak: Soak, hostile: list[bytes]) -> list[threading.Thread]:
    """Send all images to the gateway, each when it is due, until it is acknowledged."""
    numbers = itertools.count()

    def work() -> None:
        for number in numbers:
            if number >= soak.images:
                return
            wait_until_due(soak, number)
            if number % HOSTILE_EVERY == HOSTILE_EVERY - 1:
                send_hostile(soak, number, hostile[number // HOSTILE_EVERY % len(hostile)])
            else:
                send_legitimate(soak, number)

    return [threading.Thread(target=work, daemon=True) for _ in range(SENDERS)]


def wait_until_due(soak: Soak, number: int) -> None:
    due = number * soak.end * 0.95 / soak.images
    time.sleep(max(0.0, due - soak.seconds))


def send_legitimate(soak: Soak, number: int) -> None:
    film = soak.films[number % len(soak.films)]
    noise = np.random.default_rng(number).integers(0, 16, film.shape, np.uint16)
    image = radiograph(
        number,
        film & 0xFFF0 | noise,  # no two images alike
        PatientName=f"{PLANTED}^Soak",
        PatientID=f"{PLANTED}{number}",
        StudyDescription=f"{PLANTED} chest",
        PatientComments=f"seen by {PLANTED}",
    )
    patient = soak.end + PATIENCE_SECONDS
    while soak.seconds < patient:
        if send(soak, image, image.SOPClassUID, image.file_meta.TransferSyntaxUID) == 0:
            soak.legitimate[str(image.SOPInstanceUID)] = str(image.StudyInstanceUID)
            if number % 50 == 0:  # a sender that does not remember sends again
                send(soak, image, image.SOPClassUID, image.file_meta.TransferSyntaxUID)
            return
        time.sleep(1)
    soak.figures.unfinished.append(f"image {number} was never acknowledged")


def send_hostile(soak: Soak, number: int, data: bytes) -> None:
    """Send a hostile file once; whatever it is answered."""
    path = soak.folder / f"hostile-{number}.dcm"
    path.write_bytes(with_uid(data, number))
    with contextlib.suppress(Exception):  # pynetdicom cannot send each of them
        meta = meta_of(path)
        if send(soak, path, meta[0], meta[1]) == 0:
            soak.hostile.add(meta[2])
    path.unlink()


def meta_of(path: Path) -> tuple[str, str, str]:
    """SOP class, transfer syntax and SOP instance UID of a file."""
    meta = read_file_meta_info(path)
    return (
        meta.MediaStorageSOPClassUID,
        meta.TransferSyntaxUID,
        str(meta.MediaStorageSOPInstanceUID),
    )


def send(soak: Soak, image: object, sop_class: str, syntax: str) -> int:
    """Send by C-STORE over an association of its own; -1 where there was no answer."""
    started = time.monotonic()
    ae = AE(ae_title="SENDER")
    ae.add_requested_context(sop_class, syntax)
    association = ae.associate("127.0.0.1", soak.gateway.config.receive.port, ae_title="CHESTXRAY")
    if not soak.outages.seconds("receiver", started):
        soak.figures.attempts += 1
        soak.figures.accepted += association.is_established
    if not association.is_established:
        return -1
    answer = association.send_c_store(image)
    if association.is_established:
        association.release()
    return int(answer.Status) if "Status" in answer else -1


def clients(
    soak: Soak, expected: dict[bytes, list[float]], hostile: list[bytes]
) -> list[threading.Thread]:
    """Post as many radiographs to the web service, each when it is due, until it is answered."""
    numbers, films = itertools.count(), list(expected)

    def work() -> None:
        with httpx.Client(base_url=soak.service.url, timeout=120) as http:
            for number in numbers:
                if number >= soak.images:
                    return
                wait_until_due(soak, number)
                if number % HOSTILE_EVERY == HOSTILE_EVERY - 1:
                    post_hostile(soak, http, hostile[number // HOSTILE_EVERY % len(hostile)])
                else:
                    film = films[number % len(films)]
                    post_legitimate(soak, http, film, expected[film])

    return [threading.Thread(target=work, daemon=True) for _ in range(CLIENTS)]


def post_legitimate(soak: Soak, http: httpx.Client, film: bytes, expected: list[float]) -> None:
    """Post a radiograph until it is read, and compare the answer."""
    started = time.monotonic()
    while soak.seconds < soak.end + PATIENCE_SECONDS:
        try:
            answer = http.post("/v1/read", files={"file": (f"{PLANTED}.dcm", film)})
        except httpx.HTTPError as error:
            if not soak.outages.seconds("serve", started):
                soak.figures.wrong[type(error).__name__] += 1
            time.sleep(0.5)
            continue
        if answer.status_code in {429, 503} and "Retry-After" in answer.headers:
            time.sleep(float(answer.headers["Retry-After"]))
            continue
        down = soak.outages.seconds("serve", started)
        soak.figures.seconds.append(time.monotonic() - started - down)
        soak.figures.wrong.update(mistakes(answer, expected))
        return
    soak.figures.unfinished.append("a radiograph was never read by serve")


def mistakes(answer: httpx.Response, expected: list[float]) -> list[str]:
    """Say what is wrong with the answer for a legitimate radiograph, if anything."""
    if answer.status_code != 200:
        return [f"{answer.status_code} {answer.json().get('code')}"]
    found = [row["probability"] for row in answer.json()["findings"]]
    return [] if np.allclose(found, expected, atol=TOLERANCE) else ["another probability"]


def post_hostile(soak: Soak, http: httpx.Client, data: bytes) -> None:
    """Post a hostile file once: any answer but an internal error is right."""
    started = time.monotonic()
    try:
        status = http.post("/v1/read", files={"file": (f"{PLANTED}.dcm", data)}).status_code
    except httpx.HTTPError as error:
        if not soak.outages.seconds("serve", started):
            soak.figures.errors[type(error).__name__] += 1
    else:
        if status >= 500 and status != 503:
            soak.figures.errors[str(status)] += 1
