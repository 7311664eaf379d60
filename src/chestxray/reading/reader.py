"""The reader: one radiograph in, one `Reading` or one refusal out, whoever asks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from chestxray import hub
from chestxray.dataset.pixels import Canonical, name_of
from chestxray.dataset.pixels import Source as FileSource
from chestxray.dataset.radiograph import Radiograph
from chestxray.errors import ConfigError, ImageError, Notice, RefusedError, SignatureError
from chestxray.findings import Findings
from chestxray.model import model_card
from chestxray.model.engines import Answer, Engine, Heat, Probabilities, gpu_possible
from chestxray.model.exported import open_engine
from chestxray.model.image_measures import measures_of
from chestxray.model.model_card import Facts
from chestxray.reading import judged_image, kept_engines
from chestxray.reading.gate import checks
from chestxray.reading.gate.notices import warning
from chestxray.reading.judged_image import JudgedImage, checked_batch
from chestxray.reading.reading import Reading

__all__ = ["Reader", "Reading", "Source", "load"]

RUNTIMES: Final = {"auto", "torch", "openvino"}
_IMPORTED: Final = "an imported model has no detector"
_FIT: Final = (
    "to fit a detector, run `chestxray train DATASET --out RUN --resume` on the finished run"
)

Source = FileSource | Radiograph | npt.NDArray[np.uint8] | npt.NDArray[np.uint16] | JudgedImage


class Reader:
    """Reads radiographs with one bundle, by one engine.

    Attributes:
        bundle: card and out-of-distribution detector of the model; the engine has the network.
        engine: what computes.
        findings: of the model, in its order.
        size: side of the canonical image, pixels.
        warnings: what applies to every reading by this bundle.
    """

    def __init__(self, bundle: Facts, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine
        self.findings: Findings = bundle.card.findings
        self.size = bundle.card.size
        self._heat_scale = bundle.card.heat_scale
        self.warnings = tuple(warnings_of(bundle))

    def __repr__(self) -> str:
        return f"<Reader of {self.bundle.identity} by {self.engine.name}>"

    def read(self, source: Source, force: bool = False) -> Reading:
        """Read one radiograph.

        Args:
            source: a PNG, JPEG or DICOM file, as its path, its bytes, a binary file open at its
                beginning, or a decoded `Radiograph`; or a grey array [H, W] of uint8 or uint16 in
                which bright is dense, 16 bits scaled to the full range; or a `JudgedImage` of this
                reader's size.
            force: read it even where the gate refuses; the refusals are among the warnings then.

        Raises:
            RefusedError: the gate refuses the radiograph.
            ImageError: the file cannot be read, or the source is of another kind.
        """
        judged = self._judged(source)
        answer = self.engine.run(judged.image[None])
        probabilities, heat, (notices,) = self.judge([judged], answer)
        measures = measures_of(judged.image, answer.features[0], self.bundle.detector)
        if not force and any(notice.refuses for notice in notices):
            raise RefusedError(_name(source), notices, measures)
        return replace(self._reading(judged, probabilities[0], heat[0], notices), measures=measures)

    def read_judged(
        self, judged: Sequence[JudgedImage]
    ) -> tuple[Probabilities, Heat, list[tuple[Notice, ...]]]:
        """Read images and give the gate's notices on each; refused ones are read all the same.

        Returns:
            Calibrated probabilities [B, K], heatmaps [B, K, h, w] and notices, in their order.
        """
        return self.judge(judged, self.engine.run(np.stack([one.image for one in judged])))

    def judge(
        self, judged: Sequence[JudgedImage], answer: Answer
    ) -> tuple[Probabilities, Heat, list[tuple[Notice, ...]]]:
        """Do `read_judged` with what the engine says of these images."""
        probabilities, heat = self.readable(answer)
        detector = self.bundle.detector
        images = np.stack([one.image for one in judged])
        found = (
            [()] * len(judged)
            if detector is None
            else checks.distribution(detector, images, answer.features)
        )
        notices = [one.notices + more for one, more in zip(judged, found, strict=True)]
        return probabilities, heat, notices

    def read_batch(self, images: Canonical) -> tuple[Probabilities, Heat]:
        """Read canonical images uint8 [B, S, S], such as a dataset's, without the gate.

        Returns:
            Calibrated probabilities [B, K] and heatmaps [B, K, h, w], in the order of `findings`.

        Raises:
            ImageError: the images are of another kind.
        """
        return self.readable(self.engine.run(checked_batch(images, self.size)))

    def readable(self, answer: Answer) -> tuple[Probabilities, Heat]:
        """Turn what the engine says into probabilities [B, K] and heatmaps [B, K, h, w]."""
        probabilities = self.bundle.card.calibration.apply(answer.logits.astype(np.float64))
        return probabilities, self._heat_scale.heatmaps(answer.maps, probabilities)

    def call(self, finding: str, probability: float) -> bool | None:
        """Say whether a probability reaches the finding's threshold; None where not assessed."""
        threshold = self.bundle.card.thresholds[finding]
        return None if threshold is None else probability >= threshold

    def _judged(self, source: Source) -> JudgedImage:
        if isinstance(source, JudgedImage):
            return source
        if isinstance(source, Radiograph):
            return JudgedImage.of(source, self.size)
        if isinstance(source, np.ndarray):
            return JudgedImage.of_array(source, self.size)
        if isinstance(source, str | Path | bytes) or _is_binary_file(source):
            return judged_image.load(source, self.size)
        several = isinstance(source, list | tuple)
        step = "read one radiograph at a time" if several else "give one of these"
        raise ImageError(
            type(source).__name__,
            f"a radiograph is read from its path, its bytes, a binary file, or a grey array "
            f"[height, width] of uint8 or uint16: {step}",
        )

    def _reading(
        self,
        judged: JudgedImage,
        probabilities: npt.NDArray[np.float64],
        heat: npt.NDArray[np.float32],
        notices: tuple[Notice, ...],
    ) -> Reading:
        by_name = dict(zip(self.findings, probabilities.tolist(), strict=True))
        card = self.bundle.card
        return Reading(
            probabilities=by_name,
            calls={finding: self.call(finding, p) for finding, p in by_name.items()},
            heatmaps=dict(zip(self.findings, heat, strict=True)),
            warnings=notices + self.warnings,
            model=self.bundle.identity,
            image=judged.image,
            thresholds=dict(card.thresholds),
            placement=judged.placement,
            not_assessed=card.unavailable,
            operating_point=card.operating_point,
            origin=self.bundle.origin,
        )


def load(
    bundle: str | Path,
    engine: str | Path = "auto",
    operating_point: str | None = None,
    require_signature: str | Path | None = None,
    threads: int | None = None,
    device: str = "auto",
) -> Reader:
    """Load a bundle into a reader.

    Args:
        bundle: the `bundle` folder of a run, or `hub:OWNER/NAME@REVISION`, see `chestxray.hub`.
        engine: `torch`, `openvino` (in float32), or `auto`: torch on a GPU, on a CPU the fastest
            that answers as torch does, see `chestxray.reading.engine`; a graph of OpenVINO is kept
            in the cache, so that a later call loads in a fraction of the time, without torch. Or
            the folder of an export of this bundle, with which the first call does so.
        operating_point: which of the bundle's operating points calls findings, such as `youden`;
            the bundle's default, `joint`, where None.
        require_signature: public key (PEM) of who must have signed the bundle, and the export
            where the engine is one; see `chestxray.model.sign`. Nothing kept is used then.
        threads: that OpenVINO computes with; all cores when None.
        device: where torch computes: `cpu`, `cuda`, `cuda:N`, `mps`; `auto` is the GPU where there
            is one. OpenVINO and exports compute on the CPU.

    Raises:
        ConfigError: there is no such device here, or the engine cannot use it.
        BundleError: the folder is missing, incomplete, altered, an export, or made for another
            network; or it does not have the operating point; or, of the hub, as `hub.local` says.
        ArtifactError: the export is missing, altered, or of another model.
        SignatureError: bundle or export are not as the holder of the key signed them.
        MissingExtraError: the engine asked for is not installed.
    """
    point = operating_point
    return _loaded(bundle, engine, point, require_signature, threads, device, wanted=None)


def _loaded(
    bundle: str | Path,
    engine: str | Path,
    operating_point: str | None,
    require_signature: str | Path | None,
    threads: int | None,
    device: str,
    wanted: str | None,
) -> Reader:
    """Do what `load` does; `auto` takes the engine with the wanted name, if it is possible here."""
    bundle = hub.local(bundle)
    for folder in (bundle,) if engine in RUNTIMES else (bundle, engine):
        _check_signature(Path(folder), require_signature)
    if engine not in RUNTIMES and device not in ("auto", "cpu"):
        raise ConfigError(
            f"an export computes on the CPU, not on {device}: leave the device out, or the engine"
        )
    facts = model_card.read(bundle)
    if engine in RUNTIMES:
        # A kept graph is not signed, so it cannot decide where a signature is required.
        kept = require_signature is None
        made = _kept_engine(facts, str(engine), device, wanted, threads) if kept else None
        if made is not None:
            return Reader(at(facts, operating_point), made)
        # Imported here, since an export and a kept graph are read without torch.
        from chestxray.model import bundle as bundles  # noqa: PLC0415
        from chestxray.reading.engine import choose  # noqa: PLC0415

        trained = bundles.load(bundle, facts)
        made = choose(trained, str(engine), threads, device, wanted, kept)
        return Reader(at(trained, operating_point), made)
    made = open_engine(Path(engine), facts.identity, threads)
    return Reader(at(facts, operating_point), made)


def _kept_engine(
    facts: Facts, engine: str, device: str, wanted: str | None, threads: int | None
) -> Engine | None:
    """Give the kept graph of a bundle, if that is what `auto` or `openvino` takes."""
    if engine == "openvino" and device in ("auto", "cpu"):
        return kept_engines.find_openvino(facts, threads)
    if engine != "auto" or not _computes_on_cpu(device):
        return None
    kept = kept_engines.find(facts, device)
    return kept.engine if kept is not None and wanted in (None, kept.name) else None


def _computes_on_cpu(device: str) -> bool:
    """Tell whether it is certain, without torch, that `auto` computes on the CPU."""
    return device == "cpu" or (device == "auto" and not gpu_possible())


def read_facts(
    bundle: str | Path,
    operating_point: str | None = None,
    require_signature: str | Path | None = None,
) -> Facts:
    """Read what a bundle says of itself, without its network; arguments and errors as of `load`."""
    folder = hub.local(bundle)
    _check_signature(folder, require_signature)
    return at(model_card.read(folder), operating_point)


def _check_signature(folder: Path, key: str | Path | None) -> None:
    if key is not None:
        from chestxray.model import check_signature  # noqa: PLC0415 - needs an extra

        check_signature(folder, Path(key))


def opened(
    model: Reader | str | Path,
    engine: str | Path,
    operating_point: str | None = None,
    require_signature: str | Path | None = None,
    wanted: str | None = None,
) -> Reader:
    """Give the reader itself, or load a bundle as `load` does.

    Args:
        model: the reader, or the bundle.
        engine: see `load`, as for the two that follow.
        operating_point: likewise.
        require_signature: likewise.
        wanted: name of the engine that `auto` takes if it is possible here.

    Raises:
        SignatureError: a signature is required of a reader, whose files were loaded before.
    """
    if not isinstance(model, Reader):
        signed = require_signature
        return _loaded(model, engine, operating_point, signed, None, "auto", wanted)
    if require_signature is not None:
        raise SignatureError(
            "a signature is checked when a bundle is loaded: give require_signature to "
            "chestxray.load, not beside a reader"
        )
    return model


def at(bundle: Facts, operating_point: str | None) -> Facts:
    """Give a bundle at one of its operating points; its own where None."""
    if operating_point is None:
        return bundle
    return replace(bundle, card=bundle.card.at(operating_point))


def warnings_of(bundle: Facts) -> Iterator[Notice]:
    """Give what applies to every reading by a bundle."""
    if bundle.card.trained_on.synthetic:
        yield warning("trained-on-synthetic")
    if bundle.detector is None:
        yield warning("gate-not-fitted", advice=_IMPORTED if bundle.card.origin else _FIT)
    fitted = bundle.card.fitted_on
    if fitted is not None and not fitted.independent:
        yield warning("fitted-on-training-images", source=fitted.source)
    unfitted, origin = bundle.card.calibration.uncalibrated, bundle.card.origin
    if origin is not None and len(unfitted) == len(bundle.card.findings):
        yield warning("imported-not-calibrated", format=origin.format)
    elif unfitted:
        yield warning("not-calibrated", dict(unfitted), names=", ".join(unfitted))


def _name(source: Source) -> Path:
    """Give what a message calls the radiograph."""
    if isinstance(source, Radiograph):
        return source.path
    return Path("image") if isinstance(source, JudgedImage | np.ndarray) else name_of(source)


def _is_binary_file(source: object) -> bool:
    return hasattr(source, "read") and not hasattr(source, "encoding")  # which text files have
