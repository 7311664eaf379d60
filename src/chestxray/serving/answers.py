"""The answer to a request for a reading, in the form that the client accepts.

| form | content |
|---|---|
| `application/json` | a `ReadResult` |
| `application/fhir+json` | a FHIR R4 DiagnosticReport |
| `application/dicom` | one DICOM object about the uploaded image |
| `multipart/related; type="application/dicom"` | several, as DICOMweb sends them (PS3.18, 8.6) |

It is made in the thread that read the image, so that the event loop only sends it.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Sequence
from typing import Final, NamedTuple

from chestxray.reading.reader import Reader, Reading
from chestxray.serving import fhir, responses, result_objects
from chestxray.serving.content_negotiation import (
    DICOM,
    DICOM_PARTS,
    EXPLICIT_VR,
    FHIR,
    JSON,
)
from chestxray.serving.http_errors import ProblemError
from chestxray.serving.read_options import ReadOptions
from chestxray.serving.result_objects import ResultObject
from chestxray.serving.result_objects.instance import Model
from chestxray.serving.result_objects.segmentation import most_bytes
from chestxray.serving.source_image import SourceImage
from chestxray.serving.upload_decoding import Decoded
from chestxray.serving.uploads import Upload

_PART_TYPE: Final = f"{DICOM}; transfer-syntax={EXPLICIT_VR}"
_PICTURE_BYTES: Final = 4 * 2**20  # of a secondary capture, without compression
_COPIES: Final = 3  # of pixels, while an object is written


class Answer(NamedTuple):
    """An answer that is ready to be sent; one without content has the status 204."""

    content: bytes
    kind: str


def answer(
    reader: Reader, reading: Reading, upload: Upload, decoded: Decoded, options: ReadOptions
) -> Answer:
    """Make the answer.

    Args:
        reader: made the reading.
        reading: of the radiograph, all findings.
        upload: the file.
        decoded: the radiograph.
        options: what is wanted.

    Raises:
        ProblemError: DICOM is wanted of a file that it cannot refer to (422).
    """
    reading = reading.limited_to(options.findings)
    if options.is_dicom:
        source, picture = _source(decoded), decoded.picture
        if picture is None:  # a mistake of ours: it is decoded with the header
            raise RuntimeError("the picture of the DICOM objects was not decoded")
        wanted = options.objects
        made = result_objects.make(source, picture, reading, reader, wanted, compressed=False)
        return _dicom(list(made), options.form)
    if options.form == FHIR:
        known = decoded.source if isinstance(decoded.source, SourceImage) else None
        digest = hashlib.sha256(upload.data).hexdigest()
        report = fhir.diagnostic_report(reading, Model.of(reader), known, digest)
        return Answer(json.dumps(report, ensure_ascii=False).encode(), FHIR)
    result = responses.read_result(reader, reading, upload.kind, decoded, options.heatmaps)
    return Answer(result.model_dump_json().encode(), JSON)


def result_bytes(decoded: Decoded, reading: Reading, options: ReadOptions) -> int:
    """Give the most memory that the DICOM objects of an answer take, bytes; 0 of other forms.

    Raises:
        ProblemError: see `answer`.
    """
    if not options.is_dicom:
        return 0
    source = _source(decoded)
    called = sum(bool(reading.calls[finding]) for finding in options.findings)
    sizes = {"sc": _PICTURE_BYTES, "seg": most_bytes(source, called)}
    return _COPIES * sum(sizes.get(kind, 0) for kind in options.objects)


def _source(decoded: Decoded) -> SourceImage:
    if isinstance(decoded.source, str):
        raise ProblemError(
            422,
            "no-source",
            f"A DICOM object refers to the DICOM file that was read, but {decoded.source}. Accept "
            f"{JSON} or {FHIR}.",
        )
    return decoded.source


def _dicom(made: Sequence[ResultObject], form: str) -> Answer:
    if not made:
        return Answer(b"", form)
    if form == DICOM:
        return Answer(made[0].content, DICOM)
    boundary = secrets.token_hex(16)
    head = f"\r\n--{boundary}\r\nContent-Type: {_PART_TYPE}\r\n\r\n".encode()
    parts = [piece for one in made for piece in (head, one.content)]
    end = f"\r\n--{boundary}--\r\n".encode()
    return Answer(b"".join((*parts, end)), f"{DICOM_PARTS}; boundary={boundary}")
