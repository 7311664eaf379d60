"""The codes of what is said: findings, and the few words around them.

A code stands here where a published source gives it for just this meaning. Pleural thickening has
none that public sources agree on (they name at least three), so it is coded in a scheme of our own:
a wrong code is worse than a private one.

| finding            | code                | source                         |
|--------------------|---------------------|--------------------------------|
| Atelectasis        | 46621007 SCT        | SNOMED CT, atelectasis         |
| Cardiomegaly       | 8186001 SCT         | SNOMED CT, cardiomegaly        |
| Effusion           | 60046008 SCT        | PS3.16 CID 645                 |
| Infiltration       | 112121 DCM          | PS3.16 CID 6104                |
| Mass               | 4147007 SCT         | PS3.16 CID 6104                |
| Nodule             | 27925004 SCT        | PS3.16 CID 6104                |
| Pneumonia          | 233604007 SCT       | SNOMED CT, pneumonia           |
| Pneumothorax       | 36118008 SCT        | PS3.16 CID 6105                |
| Consolidation      | 95436008 SCT        | SNOMED CT, lung consolidation  |
| Edema              | 19242006 SCT        | PS3.16 CID 3700                |
| Emphysema          | 87433001 SCT        | SNOMED CT, pulmonary emphysema |
| Fibrosis           | 51615001 SCT        | SNOMED CT, fibrosis of lung    |
| Pleural_Thickening | PLEURAL-THICKEN     | our own                        |
| Hernia             | 84089009 SCT        | SNOMED CT, hiatal hernia       |
"""

from __future__ import annotations

from typing import Final

from pydicom import Dataset
from pydicom.sr.coding import Code

SCHEME: Final = "99CHESTXRAY"
_SCHEME_UID: Final = "2.25.167563207409806303412867164923226104781"

# The frame of a report: TID 1500, TID 1204, TID 1004, TID 4019.
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
NO_THRESHOLD: Final = Code("NO-THRESHOLD", SCHEME, "No threshold could be fitted")
YES: Final = Code("373066001", "SCT", "Yes")
NO: Final = Code("373067005", "SCT", "No")
CALLS: Final = {True: YES, False: NO, None: NO_THRESHOLD}

# References and equipment.
SOURCE_IMAGE: Final = Code("121322", "DCM", "Source image for image processing operation")
EQUIPMENT: Final = Code("109102", "DCM", "Processing Equipment")

FINDING: Final = {
    "Atelectasis": Code("46621007", "SCT", "Atelectasis"),
    "Cardiomegaly": Code("8186001", "SCT", "Cardiomegaly"),
    "Effusion": Code("60046008", "SCT", "Pleural effusion"),
    "Infiltration": Code("112121", "DCM", "Infiltrate"),
    "Mass": Code("4147007", "SCT", "Mass"),
    "Nodule": Code("27925004", "SCT", "Nodule"),
    "Pneumonia": Code("233604007", "SCT", "Pneumonia"),
    "Pneumothorax": Code("36118008", "SCT", "Pneumothorax"),
    "Consolidation": Code("95436008", "SCT", "Lung consolidation"),
    "Edema": Code("19242006", "SCT", "Pulmonary edema"),
    "Emphysema": Code("87433001", "SCT", "Pulmonary emphysema"),
    "Fibrosis": Code("51615001", "SCT", "Fibrosis of lung"),
    "Pleural_Thickening": Code("PLEURAL-THICKEN", SCHEME, "Pleural thickening"),
    "Hernia": Code("84089009", "SCT", "Hiatal hernia"),
}


def dataset(code: Code) -> Dataset:
    """Give a code as the item of a code sequence (PS3.3 table 8.8-1)."""
    item = Dataset()
    item.CodeValue = code.value
    item.CodingSchemeDesignator = code.scheme_designator
    item.CodeMeaning = code.meaning
    return item


def own_scheme() -> Dataset:
    """Say what our coding scheme is, as an object that uses it must (PS3.3 C.12.1)."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = SCHEME
    scheme.CodingSchemeUID = _SCHEME_UID
    scheme.CodingSchemeName = "chestxray's own codes"
    scheme.CodingSchemeResponsibleOrganization = "chestxray"
    return scheme
