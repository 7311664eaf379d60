"""Codes of the result objects: findings, and the concepts around them.

The codes of findings come from the vocabulary (`chestxray.findings`), which has a code only where a
published source gives one for exactly this meaning. All other findings are coded in a private
scheme: a wrong code is worse than a private one.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from typing import Final

from pydicom import Dataset
from pydicom.sr.coding import Code

from chestxray.findings import canonical, key, label, term

SCHEME: Final = "99CHESTXRAY"
SCHEME_UID: Final = "2.25.167563207409806303412867164923226104781"

# The root of a report: TID 1500, TID 1204, TID 1004, TID 4019.
REPORT: Final = Code("126000", "DCM", "Imaging Measurement Report")
LANGUAGE: Final = Code("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH: Final = Code("en-US", "RFC5646", "English (United States)")
PROCEDURE_REPORTED: Final = Code("121058", "DCM", "Procedure reported")
PROCEDURE: Final = Code("363679005", "SCT", "Imaging procedure")
OBSERVER: Final = Code("121005", "DCM", "Observer Type")
DEVICE: Final = Code("121007", "DCM", "Device")
DEVICE_UID: Final = Code("121012", "DCM", "Device Observer UID")
DEVICE_NAME: Final = Code("121013", "DCM", "Device Observer Name")
DEVICE_MAKER: Final = Code("121014", "DCM", "Device Observer Manufacturer")
DEVICE_MODEL: Final = Code("121015", "DCM", "Device Observer Model Name")
DEVICE_SERIAL: Final = Code("121016", "DCM", "Device Observer Serial Number")
ALGORITHM: Final = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_PARAMETERS: Final = Code("111002", "DCM", "Algorithm Parameters")
ALGORITHM_VERSION: Final = Code("111003", "DCM", "Algorithm Version")
MEASUREMENTS: Final = Code("126010", "DCM", "Imaging Measurements")
EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")
COMMENT: Final = Code("121106", "DCM", "Comment")

# A group: TID 1501, TID 1410.
GROUP: Final = Code("125007", "DCM", "Measurement Group")
TRACKING: Final = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID: Final = Code("112040", "DCM", "Tracking Unique Identifier")
FOUND: Final = Code("121071", "DCM", "Finding")
CERTAINTY: Final = Code("111012", "DCM", "Certainty of Finding")
PERCENT: Final = Code("%", "UCUM", "Percent")
MEASURED_IN: Final = Code("121112", "DCM", "Source of Measurement")
REGION: Final = Code("111030", "DCM", "Image Region")
REGION_OF: Final = Code("260753009", "SCT", "Source")
CALLED: Final = Code("CALLED", SCHEME, "Certainty reaches the threshold")
THRESHOLD: Final = Code("THRESHOLD", SCHEME, "Certainty from which a finding is called")
NOT_ASSESSED: Final = Code("NOT-ASSESSED", SCHEME, "Not assessed")
YES: Final = Code("373066001", "SCT", "Yes")
NO: Final = Code("373067005", "SCT", "No")
CALLS: Final = {True: YES, False: NO, None: NOT_ASSESSED}

# References and equipment.
SOURCE_IMAGE: Final = Code("121322", "DCM", "Source image for image processing operation")
EQUIPMENT: Final = Code("109102", "DCM", "Processing Equipment")

# Segments: CID 7150, 7162, 7203.
SEGMENTATION: Final = Code("113076", "DCM", "Segmentation")
ARTIFICIAL_INTELLIGENCE: Final = Code("123110", "DCM", "Artificial Intelligence")
THORAX: Final = Code("816094009", "SCT", "Thorax")
_ABNORMAL: Final = Code("49755003", "SCT", "Morphologically Abnormal Structure")
_OBJECT: Final = Code("260787004", "SCT", "Physical object")
_DEVICES: Final = frozenset(
    {
        "Artificial Heart Valve",
        "Central Venous Catheter",
        "Chest Drain Tube",
        "Dual Chamber Device",
        "Endotracheal Tube",
        "NSG Tube",
        "Pacemaker",
        "Single Chamber Device",
        "Support Devices",
        "Tracheostomy Tube",
    }
)

_PLEURAL_THICKENING: Final = "Pleural_Thickening"  # public sources name three different codes


@cache
def finding(name: str) -> Code:
    """Give the code of a finding.

    A private code is derived from the name alone, so every version, model and site gives a finding
    the same code, whichever spelling of the vocabulary is used, and different findings get
    different ones: up to 8 letters and digits of the name, then 35 bits of its SHA-256.
    """
    known, name = term(name), canonical(name)
    if known is not None and known.codes:
        public = known.codes[0]
        return Code(public.value, public.scheme, public.meaning)
    if name == _PLEURAL_THICKENING:
        return Code("PLEURAL-THICKEN", SCHEME, label(name))
    return Code(_private_value(name), SCHEME, label(name))


def category(name: str) -> Code:
    """Give the category of a finding's segment (PS3.16 CID 7150)."""
    return _OBJECT if canonical(name) in _DEVICES else _ABNORMAL


def _private_value(name: str) -> str:
    """Derive a code value (VR SH, 16 characters) from a name."""
    head = re.sub(r"[^A-Z0-9]+", "-", name.upper())[:8].strip("-") or "FINDING"
    digest = hashlib.sha256(key(name).encode()).digest()
    return f"{head}-{base64.b32encode(digest).decode()[:7]}"


def dataset(code: Code) -> Dataset:
    """Give a code as an item of a code sequence (PS3.3 table 8.8-1)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def private_scheme() -> Dataset:
    """Describe the private coding scheme, as an object that uses it must (PS3.3 C.12.1)."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeUID = SCHEME_UID
    scheme.CodingSchemeName = "chestxray private codes"
    scheme.CodingSchemeResponsibleOrganization = "chestxray"
    return scheme
