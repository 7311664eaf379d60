"""The failures, and the notices of the gate that some of them carry.

Callers catch `ChestXrayError`; the command line turns it into one line.

    ChestXrayError
    ├── FindingsError        a list of findings
    ├── SourceError          a raw tree, label table, box table or split list
    ├── DownloadError        the real data set could not be fetched or is not what it should be
    ├── ImageError           one file that does not become a radiograph
    │   └── RefusedError     a radiograph that the model must not judge
    ├── ArtifactError        a file between stages is missing, half-written or altered
    │   ├── BundleError      a model that does not match its own description
    │   └── SignatureError   files that the holder of a key did not sign
    ├── RecipeError          a recipe or an override
    ├── TrainingError        training cannot go on
    ├── PredictionsError     a predictions table that cannot be evaluated
    ├── ConfigError          a configuration that cannot be followed
    ├── StorageError         an object store that does not answer, refuses, or has other bytes
    ├── WorkerError          a worker process died
    │   └── DecoderError     a decoder process ended; the file may not be the cause
    └── MissingExtraError    an optional dependency is not installed

A message states the rule, the value received, and the next step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final


@dataclass(frozen=True)
class Notice:
    """One reason not to trust a reading, or not to make it.

    Attributes:
        code: stable name for programs, such as `view-lateral`.
        sentence: the same for people, with the figures in it.
        values: the figures behind it.
        refuses: whether the radiograph is not to be read; a warning otherwise.
    """

    code: str
    sentence: str
    values: dict[str, float | str] = field(default_factory=dict)
    refuses: bool = False

    def __str__(self) -> str:
        return self.sentence


class ChestXrayError(Exception):
    """Base of every failure that this package raises on purpose."""


class FindingsError(ChestXrayError):
    """A list of findings is empty, repeats a finding, or has a name that cannot be used."""


class SourceError(ChestXrayError):
    """A raw tree, label table, box table or split list breaks a rule."""


class DownloadError(ChestXrayError):
    """The real data set could not be fetched, or what came is not what it should be."""


class ImageError(ChestXrayError):
    """One file does not become a radiograph.

    Attributes:
        path: the file.
        reason: what is wrong with it, without the file's name.
    """

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


class DecodingTimeError(ImageError):
    """Decoding a file took longer than it may, for which a busy machine may be the cause."""


class RefusedError(ImageError):
    """A radiograph that the model must not judge.

    Attributes:
        notices: why, and what else there is to say of it.
        measures: figures of the image that are watched for drift, see `model.image_measures`.
    """

    def __init__(
        self,
        path: Path | str,
        notices: Sequence[Notice],
        measures: Mapping[str, float] | None = None,
    ) -> None:
        self.notices = tuple(notices)
        self.measures = dict(measures or {})
        super().__init__(path, "; ".join(str(notice) for notice in notices if notice.refuses))


class ArtifactError(ChestXrayError):
    """A file between stages is missing, half-written, altered, or of another kind."""


class BundleError(ArtifactError):
    """A bundle does not match its own description."""


class SignatureError(ArtifactError):
    """The files of a bundle or an export are not those that the holder of a key signed."""


class RecipeError(ChestXrayError):
    """A recipe or an override has an unknown key or an impossible value."""


class TrainingError(ChestXrayError):
    """Training cannot go on."""


class PredictionsError(ChestXrayError):
    """A predictions table cannot be evaluated."""


class ConfigError(ChestXrayError):
    """A configuration has an unknown key or an impossible value."""


class StorageError(ChestXrayError):
    """An object store does not answer, refuses, or has other bytes than it should; or a bad URL."""


class WorkerError(ChestXrayError):
    """A worker process died before its work was done."""


class DecoderError(WorkerError):
    """A decoder process ended while it worked on a file, which may not be the cause.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path | str) -> None:
        super().__init__(
            f"{path}: the decoder ended unexpectedly: check the free memory, then try again"
        )
        self.path = Path(path)


class MissingExtraError(ChestXrayError):
    """An optional dependency is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: pip install 'chestxray[{extra}]'")


_EXTRA_OF_MODULE: Final = {
    "torch": "train",
    "timm": "train",
    "lightning": "train",
    "huggingface_hub": "train",
    "sklearn": "train",
    "tensorboard": "track",
    "mlflow": "track",
    "wandb": "wandb",
    "h5py": "keras",
    "jinja2": "report",
    "markupsafe": "report",
    "matplotlib": "report",
    "fastapi": "serve",
    "starlette": "serve",
    "fastapi_swagger": "serve",
    "uvicorn": "serve",
    "python_multipart": "serve",
    "prometheus_client": "serve",
    "pynetdicom": "pacs",
    "onnx": "export",
    "onnxruntime": "export",
    "nncf": "export",
    "cryptography": "sign",
    "ray": "scale",
    "fsspec": "scale",
    "s3fs": "scale",
    "gcsfs": "scale",
}


def of_missing_module(error: ModuleNotFoundError) -> Exception:
    """Give the error that names the extra to install; the same error where no extra has it."""
    module = (error.name or "").partition(".")[0]
    extra = _EXTRA_OF_MODULE.get(module)
    return error if extra is None else MissingExtraError(module, extra)
