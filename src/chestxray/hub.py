"""Bundles in repositories of the Hugging Face hub: `hub:OWNER/NAME@REVISION` becomes a folder.

`local` is the only way from such a name to files. It asks the hub which commit the revision is,
downloads the files of a bundle alone (JSON and safetensors, nothing that can run code), and gives
the folder in the hub's own cache, whose name is the commit. A commit that is there whole is not
asked for again; without an answer from the hub, a branch or a tag is the commit that it was last.
Whoever reads the folder checks it, as any other bundle.

The token is huggingface_hub's own (`hf auth login`, or HF_TOKEN); this module never sees it.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from chestxray.errors import BundleError
from chestxray.storage import fetched

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

PREFIX: Final = "hub:"
NAME: Final = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:@([\w.-]+))?")
"""A repository of the hub, and perhaps a branch, a tag or a commit of it."""
BACKBONE: Final = re.compile(r"hub:([\w.-]+/[\w.-]+)(?:/([\w.-]+))?(?:@([\w.-]+))?")
"""The same of a backbone, with the name of the weights' file where there are several."""
BUNDLE_FILES: Final = ("bundle.json", "weights.safetensors", "gate.safetensors")
"""What is downloaded of a bundle: its card, its weights, and its detector if it has one."""
WHOLE: Final = "model.safetensors"
"""The weights of a whole model of timm or transformers, in repositories that hold no bundle."""
SIGNATURE: Final = ".sig"
"""The signature of a bundle on the hub, inside the folder, since there is no beside."""
SECONDS: Final = 10.0
"""To wait for the hub's first answer; its client alone would wait for over a minute."""

_CARD, _WEIGHTS, _GATE = BUNDLE_FILES
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SNAPSHOT: Final = re.compile(r"models--([\w.-]+?)--([\w.-]+)/snapshots/([0-9a-f]{40})")
"""Where the hub's client keeps the files of a commit, in its cache."""
_NO_RIGHTS: Final = {401, 403}
_LOG_IN: Final = "log in with `hf auth login`, or set HF_TOKEN"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Repository:
    """A repository of the hub.

    Attributes:
        name: `OWNER/NAME`.
        revision: a branch, a tag or a commit; None for the main branch.
    """

    name: str
    revision: str | None = None

    @classmethod
    def of(cls, text: str) -> Repository | None:
        """Read `hub:OWNER/NAME@REVISION`; None where the text is no such name."""
        found = NAME.fullmatch(text)
        return cls(*found.groups()) if found else None

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "")

    def cached(self, file: str) -> Path | None:
        """Give a file of this revision in the hub's cache; None where it is not there.

        Raises:
            BundleError: no repository can have this name.
        """
        import huggingface_hub  # noqa: PLC0415 - an extra
        from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

        try:
            path = huggingface_hub.try_to_load_from_cache(self.name, file, revision=self.revision)
        except HFValidationError as error:
            raise BundleError(refusal(self, error)) from error
        return Path(path) if isinstance(path, str) else None

    def failure(self) -> Exception | None:
        """Ask the hub for this revision; give what failed, also where no answer comes in time."""
        found = answered(self._info)
        return found if isinstance(found, Exception) else None

    def check(self, file: str) -> None:
        """Check without a download that a file is in the cache, or on the hub.

        Raises:
            BundleError: neither, or the name is none that a repository can have.
        """
        if self.cached(file):
            return
        found = answered(self._info)
        if isinstance(found, Exception):
            raise BundleError(self._cannot_fetch([file], found)) from found
        if file not in {of.rfilename for of in found.siblings or ()}:
            raise BundleError(self._lacks(file))

    def file(self, name: str) -> Path:
        """Give a file of this revision, whose folder is named by the commit.

        A commit's file in the cache is not asked for again.

        Raises:
            BundleError: it cannot be fetched and is not in the cache, or there is none.
        """
        kept = self.cached(name)
        if kept and self._is_commit:
            return kept
        path = self.folder_of([name]) / name
        if not path.is_file():
            self.check(name)  # says whether the hub lacks it or gave no answer
            raise BundleError(f"{name} of {self} was not fetched: try again")
        return path

    def _info(self) -> Any:  # noqa: ANN401 - a class of the hub's client
        import huggingface_hub  # noqa: PLC0415

        hub = huggingface_hub.HfApi()
        return hub.model_info(self.name, revision=self.revision, timeout=SECONDS)

    def bundle(self) -> Path:
        """Give the folder of the bundle in this repository, see `local`."""
        kept = self._kept()
        if kept and self._is_commit:
            return kept
        found = answered(self._info)
        if not isinstance(found, Exception):
            return self._downloaded({of.rfilename for of in found.siblings or ()})
        no = refusal(self, found)
        if no:
            raise BundleError(no) from found
        if kept is None:
            raise BundleError(
                f"{self} is not in the cache of the hub, and the hub does not answer "
                f"({first_line(found)}): go online once, or give the folder of a bundle"
            ) from found
        if type(found).__name__ != "OfflineModeIsEnabled":
            _log.warning(
                "the hub does not answer (%s): %s is taken as it was last, commit %s",
                first_line(found),
                self,
                kept.name,
            )
        return kept

    def folder_of(self, files: Sequence[str]) -> Path:
        """Give the folder in the hub's cache with some files of this revision, as far as they are.

        Raises:
            BundleError: no such repository, or no answer and not in the cache.
        """
        import huggingface_hub  # noqa: PLC0415

        failure = self.failure()
        if failure and (no := refusal(self, failure)):
            raise BundleError(no) from failure
        try:
            path = huggingface_hub.snapshot_download(
                self.name,
                revision=self.revision,
                allow_patterns=list(files),
                etag_timeout=SECONDS,
                local_files_only=failure is not None,
            )
        except Exception as error:  # its classes change with the hub's HTTP library
            raise BundleError(self._cannot_fetch(files, failure or error)) from error
        return Path(path)

    def files(self) -> set[str]:
        """Name the files of this revision; of the cache alone where the hub does not answer."""
        found = answered(self._info)
        if not isinstance(found, Exception):
            return {of.rfilename for of in found.siblings or ()}
        card = self.cached(_CARD) or self.cached("config.json")
        return {path.name for path in card.parent.iterdir()} if card else set()

    def holds_bundle(self) -> bool:
        """Tell whether this repository holds a bundle; False also where it cannot be told."""
        if self.cached(_CARD) or self.cached(WHOLE):
            return self.cached(_CARD) is not None
        found = answered(self._info)
        files = () if isinstance(found, Exception) else found.siblings or ()
        return any(of.rfilename == _CARD for of in files)

    @property
    def _is_commit(self) -> bool:
        """Whether the revision is a commit, which never changes."""
        return self.revision is not None and _COMMIT.fullmatch(self.revision) is not None

    def _cannot_fetch(self, files: Sequence[str], error: Exception) -> str:
        return refusal(self, error) or (
            f"{', '.join(files)} of {self} cannot be fetched from the hub ({first_line(error)}): "
            f"go online and check the name"
        )

    def _lacks(self, file: str) -> str:
        return f"{self} has no {file}: check the name"

    def _kept(self) -> Path | None:
        """Give the folder of this revision in the cache, None unless the bundle there is whole."""
        card = self.cached(_CARD)
        return card.parent if card and not _missing(card.parent) else None

    def _downloaded(self, files: set[str]) -> Path:
        import huggingface_hub  # noqa: PLC0415

        if _CARD not in files:
            raise BundleError(
                f"{self} is not a bundle, the repository has no {_CARD}: give one that "
                f"`chestxray push` wrote"
            )
        try:
            path = huggingface_hub.snapshot_download(
                self.name,
                revision=self.revision,
                allow_patterns=[*BUNDLE_FILES, SIGNATURE],
                etag_timeout=SECONDS,
            )
        except Exception as error:  # its classes change with the hub's HTTP library
            raise BundleError(
                refusal(self, error)
                or f"{self} cannot be downloaded whole ({first_line(error)}): try again"
            ) from error
        missing = _missing(Path(path))
        if missing:
            raise BundleError(
                f"{self} has no {missing}, which its {_CARD} describes: ask who pushed it to push "
                f"the whole bundle again"
            )
        return Path(path)


def local(bundle: str | Path) -> Path:
    """Give the folder of a bundle, wherever it is.

    Args:
        bundle: a folder, which is given as it is, or `hub:OWNER/NAME`, `hub:OWNER/NAME@REVISION`,
            or a URL.

    Raises:
        BundleError: the name is none of the hub; the hub does not answer and the cache does not
            have it whole; the user may not read it; it has no such revision; or it is no bundle.
        StorageError: as `storage.fetched` says of a URL.
    """
    name = str(bundle)
    if not name.startswith(PREFIX):
        return fetched(bundle, beside=[f"{Path(bundle).name}{SIGNATURE}"])
    repository = Repository.of(name)
    if repository is None:
        raise BundleError(
            f"{name!r} is no bundle of the hub: give hub:OWNER/NAME, or hub:OWNER/NAME@REVISION "
            f"with a branch, a tag or a commit"
        )
    return repository.bundle()


def bundle_in(weights: str) -> Path | None:
    """Give the folder of the bundle that `weights` names; None where it names something else.

    Args:
        weights: of a recipe: a folder, or `hub:OWNER/NAME` of a repository that holds a bundle.

    Raises:
        BundleError: as `local` says.
    """
    repository = Repository.of(weights)
    if repository is not None:
        return repository.bundle() if repository.holds_bundle() else None
    return Path(weights) if Path(weights).is_dir() else None


def origin(folder: Path) -> str | None:
    """Give `hub:OWNER/NAME@COMMIT` of a folder that the hub's client keeps in its cache.

    A folder of the same name in another place, such as a copy, may hold anything: None, as for any
    other folder.
    """
    found = _SNAPSHOT.fullmatch("/".join(Path(folder).absolute().parts[-3:]))
    if found is None:
        return None
    try:
        from huggingface_hub import constants  # noqa: PLC0415 - an extra
    except ImportError:  # nothing was fetched without it
        return None
    if Path(folder).absolute().parents[2].resolve() != Path(constants.HF_HUB_CACHE).resolve():
        return None
    return f"{PREFIX}{found[1]}/{found[2]}@{found[3]}"


def answered(ask: Callable[[], Any]) -> Any | Exception:  # noqa: ANN401 - of any question
    """Ask the hub something; give its answer, or what failed, also where none comes in time.

    A thread asks: the hub's own timeout does not cover the look-up of its address.
    """
    found: list[Any] = [TimeoutError(f"no answer from the hub in {SECONDS:g} s")]

    def keep() -> None:
        try:
            found[:] = [ask()]
        except Exception as error:  # noqa: BLE001 - its classes change with the hub's HTTP library
            found[:] = [error]

    asking = threading.Thread(target=keep, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return found[0]


def first_line(error: Exception) -> str:
    """Give the first line of a message; the class where there is none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def refusal(repository: Repository, error: Exception) -> str | None:
    """Say why the hub refuses this user a repository; None where it did not answer."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    kind = type(error).__name__
    if kind == "HFValidationError":
        return (
            f"{repository.name!r} is no name of a repository ({first_line(error)}): give "
            f"hub:OWNER/NAME"
        )
    if kind == "RevisionNotFoundError":
        return (
            f"{repository}: the repository has no revision {repository.revision!r}: check the name"
        )
    if kind == "RepositoryNotFoundError":
        return (
            f"{repository}: the hub has no such repository that you may use (HTTP {status}): check "
            f"the name; if it is private, {_LOG_IN}"
        )
    if kind == "GatedRepoError" or status in _NO_RIGHTS:
        return (
            f"{repository} is not open to you (HTTP {status}): accept its terms on its page of the "
            f"hub, or {_LOG_IN} with a token that may do this"
        )
    return None


def _missing(folder: Path) -> str | None:
    """Name a file that the card of a folder describes and the folder lacks."""
    try:
        card = json.loads((folder / _CARD).read_bytes())
    except (OSError, ValueError):
        return _CARD
    wanted = [_WEIGHTS, *([_GATE] if isinstance(card, dict) and card.get("gate") else [])]
    return next((name for name in wanted if not (folder / name).is_file()), None)
