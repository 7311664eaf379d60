"""The reader: one radiograph in, one `Reading` out or a refusal, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from chestxray.dataset import radiograph as intake
from chestxray.errors import ImageError, Notice, RefusedError
from chestxray.model.engines import Engine, Features, Heat, Probabilities, heatmaps
from chestxray.model.model_card import Facts
from chestxray.reading.arrays import checked_batch, checked_film
from chestxray.reading.gate import distribution as likeness
from chestxray.reading.gate.notices import warning
from chestxray.reading.judged_image import WHOLE, JudgedImage, Placement, developed, load

Source = intake.Source | npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | JudgedImage


@dataclass(frozen=True)
class Reading:
    """What a model says of one radiograph.

    Attributes:
        probabilities: finding → calibrated probability in [0, 1].
        calls: finding → whether the probability reaches the finding's threshold; None where
            validation allowed no threshold.
        heatmaps: finding → float32 [h, w] over the canonical square image, at least 0, on one
            scale for every image and finding (1 is full colour).
        warnings: why not to trust it, if so; refusals among them where it was forced.
        model: identity of the weights.
        placement: x, y, w, h of the film in the square that the heatmaps cover, as fractions of
            its side; what lies outside is padding.
    """

    probabilities: dict[str, float]
    calls: dict[str, bool | None]
    heatmaps: dict[str, npt.NDArray[np.float32]]
    warnings: tuple[Notice, ...]
    model: str
    placement: Placement = WHOLE


class Reader:
    """Reads radiographs with one bundle, by one engine.

    Attributes:
        bundle: card and gate of the model; the network itself is the engine's.
        warnings: what every reading of this bundle suffers from.
    """

    def __init__(self, bundle: Facts, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine
        self.findings = bundle.card.findings
        self.size = bundle.card.size
        self._slopes = np.array(list(bundle.card.heat_slopes.values()), np.float32)
        self.warnings = tuple(_warnings(bundle))

    def __repr__(self) -> str:
        return f"<Reader of {self.bundle.identity} by {self.engine.name}>"

    def read(self, source: Source, force: bool = False) -> Reading:
        """Read one radiograph.

        Args:
            source: a PNG, JPEG or DICOM file, as its path, its bytes, or a binary file open at its
                beginning; a grey array [H, W] of uint8 or uint16 in which bright is dense, 16 bits
                scaled to the full range; or a film of this size.
            force: read it even where the gate refuses; the refusals stand among the warnings then.

        Raises:
            RefusedError: the gate says that the model must not judge it.
            ImageError: the file does not become a radiograph, or the source is of another kind.
        """
        film = self._film(source)
        probabilities, heat, (notices,) = self.read_films([film])
        if not force and any(notice.refuses for notice in notices):
            raise RefusedError(_name(source), notices)
        return self._reading(probabilities[0], heat[0], notices, film.placement)

    def read_films(
        self, films: Sequence[JudgedImage]
    ) -> tuple[Probabilities, Heat, list[tuple[Notice, ...]]]:
        """Read films and tell what the gate says of each; what it refuses is read all the same.

        Returns:
            Calibrated probabilities [B, K], heatmaps [B, K, h, w] and notices, in their order.
        """
        images = np.stack([film.image for film in films])
        probabilities, heat, features = self._answer(images)
        fitted = self.bundle.detector
        judged = [()] * len(films) if fitted is None else likeness.judge(fitted, images, features)
        notices = [film.notices + more for film, more in zip(films, judged, strict=True)]
        return probabilities, heat, notices

    def read_batch(self, images: npt.NDArray[np.uint8]) -> tuple[Probabilities, Heat]:
        """Read canonical images uint8 [B, S, S], such as a dataset's, without the gate.

        Returns:
            Calibrated probabilities [B, K] and heatmaps [B, K, h, w], in the order of `findings`.

        Raises:
            ImageError: the images are of another kind.
        """
        probabilities, heat, _ = self._answer(checked_batch(images, self.size))
        return probabilities, heat

    def _answer(self, images: npt.NDArray[np.uint8]) -> tuple[Probabilities, Heat, Features]:
        logits, maps, features = self.engine.run(images)
        probabilities = self.bundle.card.calibration.apply(logits.astype(np.float64))
        heat = heatmaps(maps, self._slopes, probabilities, self.bundle.card.heat_scale)
        return probabilities, heat, features

    def call(self, finding: str, probability: float) -> bool | None:
        """Say whether a probability reaches the finding's threshold, None without one."""
        threshold = self.bundle.card.thresholds[finding]
        return None if threshold is None else probability >= threshold

    def _film(self, source: Source) -> JudgedImage:
        if isinstance(source, JudgedImage):
            return source
        if isinstance(source, np.ndarray):
            return developed(checked_film(source), self.size)
        if isinstance(source, str | Path | bytes) or _is_binary_file(source):
            return load(source, self.size)
        several = isinstance(source, list | tuple)
        step = "read one film at a time" if several else "save it to bytes, or give one of these"
        raise ImageError(
            type(source).__name__,
            f"a film is read from its path, its bytes, a binary file, or a grey array [height, "
            f"width] of uint8 or uint16: {step}",
        )

    def _reading(
        self,
        probabilities: npt.NDArray[np.float64],
        heat: npt.NDArray[np.float32],
        notices: tuple[Notice, ...],
        placement: Placement,
    ) -> Reading:
        by_name = dict(zip(self.findings, probabilities.tolist(), strict=True))
        return Reading(
            probabilities=by_name,
            calls={finding: self.call(finding, p) for finding, p in by_name.items()},
            heatmaps=dict(zip(self.findings, heat, strict=True)),
            warnings=notices + self.warnings,
            model=self.bundle.identity,
            placement=placement,
        )


def _warnings(bundle: Facts) -> Iterator[Notice]:
    if bundle.card.trained_on.synthetic:
        yield warning(
            "trained-on-synthetic",
            "the model was trained on synthetic radiographs alone: it knows nothing of real ones",
        )
    if bundle.detector is None:
        yield warning(
            "gate-not-fitted",
            "the bundle has no gate, or one of an earlier kind: whether a film is a chest "
            "radiograph, upright and no negative is not checked; `chestxray train DATASET --out "
            "RUN --resume` on its finished run fits one",
        )
    unfitted = bundle.card.calibration.unfitted
    if unfitted:
        yield warning(
            "not-calibrated",
            f"the probabilities of {len(unfitted)} findings are not calibrated: "
            f"{', '.join(unfitted)}",
            **unfitted,
        )


def _name(source: Source) -> Path:
    """Give what stands for the film in a message."""
    return Path("film") if isinstance(source, JudgedImage | np.ndarray) else intake.name_of(source)


def _is_binary_file(source: object) -> bool:
    return hasattr(source, "read") and not hasattr(source, "encoding")  # which text files have
