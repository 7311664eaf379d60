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

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept

SCHEME: Final = "99CHESTXRAY"
_SCHEME_UID: Final = "2.25.167563207409806303412867164923226104781"

CERTAINTY: Final = CodedConcept("111012", "DCM", "Certainty of Finding")
COMMENT: Final = CodedConcept("121106", "DCM", "Comment")
PERCENT: Final = CodedConcept("%", "UCUM", "Percent")
PROCEDURE: Final = CodedConcept("363679005", "SCT", "Imaging procedure")
REPORT: Final = CodedConcept("126000", "DCM", "Imaging Measurement Report")
MEASUREMENTS: Final = CodedConcept("126010", "DCM", "Imaging Measurements")
EVALUATIONS: Final = CodedConcept("C0034375", "UMLS", "Qualitative Evaluations")
ENGLISH: Final = CodedConcept("en-US", "RFC5646", "English (United States)")
DEVICE: Final = CodedConcept("121007", "DCM", "Device")
PROCEDURE_REPORTED: Final = CodedConcept("121058", "DCM", "Procedure reported")
SOURCE_IMAGE: Final = CodedConcept("121322", "DCM", "Source image for image processing operation")

CALLED: Final = CodedConcept("CALLED", SCHEME, "Certainty reaches the threshold")
THRESHOLD: Final = CodedConcept("THRESHOLD", SCHEME, "Certainty from which a finding is called")
NO_THRESHOLD: Final = CodedConcept("NO-THRESHOLD", SCHEME, "No threshold could be fitted")
YES: Final = CodedConcept("373066001", "SCT", "Yes")
NO: Final = CodedConcept("373067005", "SCT", "No")
CALLS: Final = {True: YES, False: NO, None: NO_THRESHOLD}

FINDING: Final = {
    "Atelectasis": CodedConcept("46621007", "SCT", "Atelectasis"),
    "Cardiomegaly": CodedConcept("8186001", "SCT", "Cardiomegaly"),
    "Effusion": CodedConcept("60046008", "SCT", "Pleural effusion"),
    "Infiltration": CodedConcept("112121", "DCM", "Infiltrate"),
    "Mass": CodedConcept("4147007", "SCT", "Mass"),
    "Nodule": CodedConcept("27925004", "SCT", "Nodule"),
    "Pneumonia": CodedConcept("233604007", "SCT", "Pneumonia"),
    "Pneumothorax": CodedConcept("36118008", "SCT", "Pneumothorax"),
    "Consolidation": CodedConcept("95436008", "SCT", "Lung consolidation"),
    "Edema": CodedConcept("19242006", "SCT", "Pulmonary edema"),
    "Emphysema": CodedConcept("87433001", "SCT", "Pulmonary emphysema"),
    "Fibrosis": CodedConcept("51615001", "SCT", "Fibrosis of lung"),
    "Pleural_Thickening": CodedConcept("PLEURAL-THICKEN", SCHEME, "Pleural thickening"),
    "Hernia": CodedConcept("84089009", "SCT", "Hiatal hernia"),
}


def own_scheme() -> CodingSchemeIdentificationItem:
    """Say what our coding scheme is, as an object that uses it must (PS3.3 C.12.1)."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME,
        name="chestxray's own codes",
        uid=_SCHEME_UID,
        responsible_organization="chestxray",
    )
