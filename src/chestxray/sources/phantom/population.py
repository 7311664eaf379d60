"""Patients, their examinations, and which findings those show.

Findings follow a Gaussian copula: a latent value for each finding, correlated between findings
as NIH's 112,120 label rows are (tetrachoric correlations of the v2020 table), partly the
patient's own and partly the examination's, is cut at the finding's prevalence in that view. So
prevalences, co-occurrences and persistence over follow-ups are near NIH's.

No image is drawn here. Each stream of random numbers derives from (seed, patient, purpose), so
that any image can be made alone, in any order, in any process.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from chestxray.sources.nih.tables import FINDINGS

View = Literal["PA", "AP"]
Sex = Literal["M", "F"]

_MOST_FOLLOW_UPS: Final = 12
BALANCED_PREVALENCE: Final = 0.17

# Counted on the v2020 table, PA and AP images apart.
PREVALENCE: Final[dict[View, dict[str, float]]] = {
    "PA": dict(zip(FINDINGS, (
        0.0851, 0.0232, 0.0979, 0.1390, 0.0530, 0.0621, 0.0094,
        0.0506, 0.0226, 0.0041, 0.0223, 0.0209, 0.0359, 0.0029), strict=True)),
    "AP": dict(zip(FINDINGS, (
        0.1301, 0.0271, 0.1501, 0.2352, 0.0494, 0.0481, 0.0179,
        0.0423, 0.0702, 0.0452, 0.0227, 0.0062, 0.0216, 0.0008), strict=True)),
}  # fmt: skip

_CORRELATION_ROWS: Final = (
    (),
    (0.07,),
    (0.37, 0.39),
    (0.21, 0.05, 0.25),
    (0.06, -0.07, 0.20, 0.04),
    (-0.03, -0.07, 0.06, 0.12, 0.30),
    (0.14, 0.02, 0.12, 0.29, -0.01, -0.03),
    (0.10, -0.17, 0.15, 0.00, 0.12, 0.03, -0.09),
    (0.31, 0.08, 0.28, 0.14, 0.25, 0.12, 0.15, 0.00),
    (-0.02, 0.16, 0.23, 0.31, 0.02, 0.00, 0.56, -0.20, 0.11),
    (0.13, -0.06, 0.05, 0.00, 0.11, -0.04, -0.05, 0.51, -0.00, -0.09),
    (0.06, 0.04, -0.01, 0.04, 0.06, 0.12, -0.09, 0.00, 0.02, -0.19, -0.01),
    (0.10, 0.06, 0.23, 0.07, 0.24, 0.19, 0.02, 0.14, 0.13, -0.01, 0.14, 0.26),
    (0.11, 0.03, -0.04, -0.04, 0.13, -0.04, 0.00, -0.03, -0.11, -0.05, -0.03, 0.12, 0.02),
)
_PERSISTENCE: Final = 0.6  # the patient's share of a latent value's variance
_IMAGES_A_PATIENT: Final = (0.568, 0.134, 0.068, 0.043, 0.030, 0.026, 0.020, 0.016, 0.013, 0.010)


def _copula() -> npt.NDArray[np.float64]:
    matrix = np.eye(len(FINDINGS))
    for row, values in enumerate(_CORRELATION_ROWS):
        matrix[row, :row] = matrix[:row, row] = values
    return np.asarray(np.linalg.cholesky(matrix), np.float64)


_COPULA: Final = _copula()


@dataclass(frozen=True)
class Patient:
    """One patient's body, the same in all examinations. Lengths in cm.

    Attributes:
        seed: of the whole population.
        number: the patient number, from 1.
        sex: M or F.
        age: at the first examination, in years.
        images: how many examinations there are.
        width: inner width of the thorax at its widest.
        slender: height of the lungs over half the thorax's width.
        depth: depth of the chest cavity over its width.
        fat: soft tissue around the ribs.
        heart: cardiothoracic ratio in PA while the heart is not enlarged.
        enlarged: the same when it is.
        aorta: radius of the aortic knob.
        breast: size of the breasts, 0 for none.
    """

    seed: int
    number: int
    sex: Sex
    age: float
    images: int
    width: float
    slender: float
    depth: float
    fat: float
    heart: float
    enlarged: float
    aorta: float
    breast: float

    def stream(self, purpose: str) -> np.random.Generator:
        """Give the patient's own random numbers for one purpose, always the same ones."""
        return np.random.default_rng([self.seed, self.number, zlib.crc32(purpose.encode())])


@dataclass(frozen=True)
class Exam:
    """One examination: how the patient is placed and what the radiograph shows.

    Attributes:
        patient: of whom.
        follow_up: 0 for the first examination.
        view: PA (standing, from behind) or AP (mostly in bed, from in front).
        findings: those that the radiograph shows.
        severity: about 1; how strongly a finding shows this time.
        inspiration: 1 for a full breath.
        rotation: shift in cm of what lies in front against the spine.
        tilt: of the radiograph, in degrees.
        shift: of the radiograph, in cm (right, down).
        field: side of the radiograph in cm.
        brightness: shift of the grey scale.
        contrast: its slope, about 1.
        noise: quantum noise, about 1.
    """

    patient: Patient
    follow_up: int
    view: View
    findings: frozenset[str]
    severity: float
    inspiration: float
    rotation: float
    tilt: float
    shift: tuple[float, float]
    field: float
    brightness: float
    contrast: float
    noise: float

    @property
    def name(self) -> str:
        """The image's file name, as NIH builds it."""
        return f"{self.patient.number:08d}_{self.follow_up:03d}.png"

    @property
    def age(self) -> float:
        """Age at this examination, in years."""
        return self.patient.age + self.follow_up // 3

    @property
    def supine(self) -> bool:
        """Whether the patient lies, so that fluid and air find no level."""
        return self.view == "AP"

    def stream(self, purpose: str) -> np.random.Generator:
        """Give this examination's own random numbers for one purpose."""
        return self.patient.stream(f"{purpose} {self.follow_up}")


def patient(seed: int, number: int) -> Patient:
    """Create patient `number` of the population `seed`."""
    rng = np.random.default_rng([seed, number])
    sex: Sex = "M" if rng.random() < 0.565 else "F"
    age = float(np.clip(rng.normal(47, 17), 4, 94))
    grown = min(1.0, 0.55 + 0.45 * age / 17)
    male = sex == "M"
    left = 1 - sum(_IMAGES_A_PATIENT)
    images = int(rng.choice(len(_IMAGES_A_PATIENT) + 1, p=(*_IMAGES_A_PATIENT, left))) + 1
    if images > len(_IMAGES_A_PATIENT):
        images = int(rng.integers(len(_IMAGES_A_PATIENT), _MOST_FOLLOW_UPS)) + 1
    return Patient(
        seed=seed,
        number=number,
        sex=sex,
        age=round(age),
        images=images,
        width=grown * float(np.clip(rng.normal(29.5 if male else 26.5, 1.4), 23, 33)),
        slender=float(np.clip(rng.normal(1.68, 0.10), 1.45, 1.95)),
        depth=float(np.clip(rng.normal(0.60, 0.04), 0.50, 0.72)),
        fat=grown * float(np.clip(rng.gamma(5, 0.55), 1.0, 6.0)),
        heart=float(np.clip(rng.normal(0.425, 0.022), 0.37, 0.465)),
        enlarged=float(rng.uniform(0.55, 0.67)),
        aorta=grown * float(np.clip(rng.normal(1.6 + 0.008 * age, 0.2), 1.2, 2.8)),
        breast=0.0 if male or age < 14 else float(np.clip(rng.normal(1, 0.3), 0.4, 1.8)),
    )


def exams(someone: Patient, balanced: bool = False) -> tuple[Exam, ...]:
    """Create all examinations of a patient, in order."""
    rng = someone.stream("exams")
    own = rng.standard_normal(len(FINDINGS))
    usual_ap = rng.beta(0.6, 0.9)  # some patients are seldom out of bed
    return tuple(
        _exam(someone, follow_up, rng, own, usual_ap, balanced)
        for follow_up in range(someone.images)
    )


def _exam(
    someone: Patient,
    follow_up: int,
    rng: np.random.Generator,
    own: npt.NDArray[np.float64],
    usual_ap: float,
    balanced: bool,
) -> Exam:
    view: View = "AP" if rng.random() < usual_ap else "PA"
    now = rng.standard_normal(len(FINDINGS))
    latent = _COPULA @ (np.sqrt(_PERSISTENCE) * own + np.sqrt(1 - _PERSISTENCE) * now)
    prevalence = [
        BALANCED_PREVALENCE if balanced else PREVALENCE[view][finding] for finding in FINDINGS
    ]
    ap = view == "AP"
    return Exam(
        patient=someone,
        follow_up=follow_up,
        view=view,
        findings=frozenset(
            finding
            for finding, value, share in zip(FINDINGS, latent, prevalence, strict=True)
            if value > NormalDist().inv_cdf(1 - share)
        ),
        severity=float(rng.uniform(0.8, 1.2)),
        inspiration=float(np.clip(rng.normal(0.9 if ap else 1.0, 0.05), 0.72, 1.1)),
        rotation=float(rng.normal(0, 0.5 if ap else 0.25)),
        tilt=float(rng.normal(0, 2.0 if ap else 0.9)),
        shift=(float(rng.normal(0, 1.0 if ap else 0.5)), float(rng.normal(0, 0.8))),
        field=someone.width * float(rng.uniform(1.17, 1.42)),
        brightness=float(np.clip(rng.normal(-0.04 if ap else -0.06, 0.10), -0.25, 0.07)),
        contrast=float(np.clip(rng.normal(0.8 if ap else 1.04, 0.12), 0.55, 1.3)),
        noise=float(rng.uniform(0.7, 1.5)) * (1.3 if ap else 1.0),
    )


def population(images: int, seed: int = 0, balanced: bool = False) -> Iterator[Exam]:
    """Give exactly `images` examinations by patient; the last patient may lack some."""
    made, number = 0, 0
    while made < images:
        number += 1
        for exam in exams(patient(seed, number), balanced)[: images - made]:
            made += 1
            yield exam
