"""Pushes a bundle to the Hugging Face hub: its files, and a model card that people read.

What is pushed is checked first, as before a reading, and read again by the hub's own checks of the
card. All files go in one commit, so that the hub never has half a bundle. The token is that of
huggingface_hub (`hf auth login`, or HF_TOKEN).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chestxray.errors import BundleError
from chestxray.hub import BUNDLE_FILES, SIGNATURE, Repository, first_line, refusal
from chestxray.model import model_card
from chestxray.model.model_card import README
from chestxray.reporting.readme import model_card as card_text


def push(
    bundle: str | Path,
    to: str,
    *,
    licence: str | None = None,
    private: bool = False,
    card: str | Path | None = None,
) -> str:
    """Push a bundle to the hub, which makes the repository and the branch where there is none.

    Args:
        bundle: its folder. Beside a run's, the model card shows the run's evaluation. A signature
            beside the folder goes with it.
        to: `hub:OWNER/NAME`, or `hub:OWNER/NAME@BRANCH`.
        licence: of the weights, as the hub names it, such as `apache-2.0`.
        private: make a new repository private; one that exists must be private already.
        card: Markdown file to push as `README.md` instead.

    Returns:
        `hub:OWNER/NAME@COMMIT` of what was pushed.

    Raises:
        BundleError: not a whole bundle, no such name, a public repository where a private one is
            wanted, or the hub refuses or does not answer.
        ArtifactError: a file is missing.
    """
    folder = Path(bundle)
    repository = Repository.of(to)
    if repository is None:
        raise BundleError(f"{to!r} is no repository of the hub: give hub:OWNER/NAME")
    identity = model_card.read(folder).identity
    text = (
        Path(card).read_text(encoding="utf-8")
        if card is not None
        else card_text(folder, licence=licence, repository=f"hub:{repository.name}")
    )
    signature = folder.with_name(folder.name + SIGNATURE)
    files: dict[str, Path | bytes] = {README: text.encode()}
    files |= {name: folder / name for name in BUNDLE_FILES if (folder / name).exists()}
    if signature.exists():
        files[SIGNATURE] = signature
    try:
        commit = _commit(repository, files, identity, private)
    except BundleError:
        raise
    except Exception as error:  # its classes change with the hub's HTTP library
        raise BundleError(
            refusal(repository, error)
            or f"{folder} cannot be pushed to {repository} ({first_line(error)}): the hub may "
            f"have made the repository or the branch, without this bundle; check network and name, "
            f"and push again"
        ) from error
    return f"hub:{repository.name}@{commit}"


def _commit(
    repository: Repository, files: dict[str, Path | bytes], identity: str, private: bool
) -> str:
    """Write all files in one commit, and give its name."""
    import huggingface_hub  # noqa: PLC0415 - an extra

    hub: Any = huggingface_hub.HfApi()
    hub.create_repo(repository.name, private=private, exist_ok=True)
    if private and not hub.model_info(repository.name).private:
        raise BundleError(
            f"{repository.name} is there already and is public: push without --private, give "
            f"another name, or make it private on its page of the hub"
        )
    if repository.revision:
        hub.create_branch(repository.name, branch=repository.revision, exist_ok=True)
    done = hub.create_commit(
        repository.name,
        [_addition(name, content) for name, content in files.items()],
        commit_message=f"chestxray bundle {identity}",
        revision=repository.revision,
    )
    return str(done.oid)


def _addition(name: str, content: Path | bytes) -> Any:  # noqa: ANN401 - a class of the hub
    import huggingface_hub  # noqa: PLC0415

    given = str(content) if isinstance(content, Path) else content
    return huggingface_hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=given)
