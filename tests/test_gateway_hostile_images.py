"""A hostile image costs the gateway's worker one attempt of bounded time and memory."""

from __future__ import annotations

import hashlib
import io
import struct
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread, uid

import chestxray
from chestxray import artifacts
from chestxray.dataset.decoding import Isolated
from chestxray.dataset.pixels import canonical
from chestxray.dataset.radiograph import Radiograph
from chestxray.errors import ImageError
from chestxray.reading.reader import Reader
from chestxray.serving.gateway import dead_letters, image_decoding, worker
from chestxray.serving.gateway.store import READ, Image, Store
from chestxray.serving.source_image import SourceImage
from decoder_work import ended
from dicom_files import written
from gateway_parts import config, radiograph

PACS = '[[destinations]]\nname = "pacs"\nkind = "stow"\nurl = "http://x"\n'
QUALIFIERS = (0x0010, 0x0024)  # IssuerOfPatientIDQualifiersSequence
ITEM = b"\xfe\xff\x00\xe0\x00\x00\x00\x00"


def with_items(count: int) -> bytes:
    """A radiograph whose sequence of qualifiers holds so many empty items."""
    whole = written(radiograph())
    at = whole.index(struct.pack("<HH2s", 0x0010, 0x0030, b"DA"))  # PatientBirthDate
    head = struct.pack("<HH2sHI", *QUALIFIERS, b"SQ", 0, 8 * count)
    return whole[:at] + head + ITEM * count + whole[at:]


def test_items_of_a_few_bytes_are_copied_and_items_of_many_are_refused():
    small = SourceImage.read(with_items(20), "ab")
    assert len(small.sequences["IssuerOfPatientIDQualifiersSequence"]) == 20
    whole = with_items(7 * 2**20)
    tracemalloc.start()
    with pytest.raises(ImageError, match="IssuerOfPatientIDQualifiersSequence has 58720256 bytes"):
        SourceImage.read(whole, "ab")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4e6, "of a file of 56 MB"


@pytest.mark.parametrize(
    ("syntax", "options"),
    [
        (uid.ImplicitVRLittleEndian, {"implicit_vr": True, "little_endian": True}),
        (uid.DeflatedExplicitVRLittleEndian, {}),
    ],
)
def test_attributes_are_the_same_in_every_encoding(syntax, options):
    plain = dcmread(io.BytesIO(with_items(0)))
    plain.PatientName = "Müller^Jörg"
    plain.SpecificCharacterSet = "ISO_IR 100"
    expected = SourceImage.read(written(plain), "ab")
    plain.file_meta.TransferSyntaxUID = syntax
    found = SourceImage.read(written(plain, **options), "ab")
    assert found == expected
    assert found.values["PatientName"] == "Müller^Jörg"


def test_the_picture_shows_what_the_whole_radiograph_would():
    data = written(radiograph())
    decoded, whole = image_decoding.decode(32, data, "ab"), Radiograph.read(data)
    side = image_decoding.PICTURE_SIDE
    assert np.array_equal(canonical(decoded.picture, side), whole.canonical(side))
    assert np.array_equal(decoded.judged.image, whole.canonical(32))


class Bench:
    """A store with one image, and a worker of this process."""

    def __init__(self, folder: Path, content: bytes) -> None:
        self.config = config(folder, PACS)
        self.store = Store(self.config.state)
        artifacts.write_bytes(self.store.image_file("1.2.3"), content)
        digest = hashlib.sha256(content).hexdigest()
        self.store.add(Image("1.2.3", digest, "SENDER", "DX"))

    def work(self, reader: Reader, decoder: Isolated) -> dict:
        task = self.store.claim(READ, 60, self.config.read.attempts)
        assert task
        worker.handle(task, self.config, reader, decoder, self.store)
        decoder.close()
        (row,) = self.store.db.execute("SELECT * FROM tasks")
        self.reasons = [str(one["reason"]) for one in dead_letters.dead_letters(self.store.db)]
        self.store.close()
        return dict(row)


@pytest.fixture(scope="module")
def reader(run: Path) -> Reader:
    return chestxray.load(run / "bundle", "torch")


def test_an_image_with_millions_of_items_is_dead_at_its_first_attempt(tmp_path, reader):
    bench = Bench(tmp_path, with_items(2**19))
    row = bench.work(reader, image_decoding.decoder(reader.size, 120))
    assert (row["state"], row["attempts"]) == ("dead", 1)
    assert "IssuerOfPatientIDQualifiersSequence has 4194304 bytes" in bench.reasons[0]


def test_an_image_that_takes_too_long_is_dead_at_its_first_attempt(tmp_path, reader):
    bench = Bench(tmp_path, written(radiograph()))
    row = bench.work(reader, Isolated(partial(ended, "hangs"), 2))
    assert (row["state"], row["attempts"]) == ("dead", 1)
    assert bench.reasons == ["decoding took more than 2 s"]


def test_an_image_whose_decoder_is_killed_is_read_again(tmp_path, reader):
    bench = Bench(tmp_path, written(radiograph()))
    row = bench.work(reader, Isolated(partial(ended, "dies"), 60))
    assert (row["state"], row["attempts"]) == ("queued", 1)
    assert not bench.reasons


def test_decoding_may_take_half_of_the_lease_and_a_minute_at_most():
    assert image_decoding.decoder(32, 20)._seconds == 10
    assert image_decoding.decoder(32, 1000)._seconds == 60
