"""Detached signatures: who made a bundle or an export, whatever its own hashes say.

`bundle.sig` lies beside the folder `bundle`. It lists the SHA-256 of every file of the folder and
has an Ed25519 signature (RFC 8032) over this list as canonical JSON (sorted keys, no spaces, after
a line that names the purpose). A file that was changed, added, removed or renamed no longer
matches. Hidden files, which nothing reads, are not listed.

A signature says who made the files, not that the model is a good one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import BaseModel, ConfigDict, ValidationError

from chestxray.artifacts import read_json, sha256, write_json
from chestxray.errors import ArtifactError, ConfigError, SignatureError
from chestxray.evaluation.bundle_thresholds import CARD
from chestxray.hub import SIGNATURE as SUFFIX
from chestxray.model import model_card
from chestxray.model.exported import EXPORT, read_export

PUBLIC: Final = ".pub"
_PURPOSE: Final = b"signature of chestxray files, format 1\n"
_MADE_BY: Final = "chestxray sign"


class Signature(BaseModel):
    """The content of a signature file.

    Attributes:
        files: SHA-256 of each file of the folder, by name.
        key: start of the SHA-256 of the public key, to say whose it is.
        signature: Ed25519 signature of `message(files)`, in Base64.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: Literal[1] = 1
    files: dict[str, str]
    key: str
    signature: str


def message(files: dict[str, str]) -> bytes:
    """Give the bytes that are signed: the purpose, then the list as canonical JSON (ASCII)."""
    return _PURPOSE + json.dumps(files, sort_keys=True, separators=(",", ":")).encode("ascii")


def path_of(folder: Path) -> Path:
    """Give the path of a folder's signature, beside the folder."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - `..` goes, links stay as named
    return folder.with_name(folder.name + SUFFIX)


def create_key(path: Path) -> Path:
    """Create a key: the private key at `path`, mode 0600, the public key at `path.pub`.

    Returns:
        The path of the public key.

    Raises:
        ConfigError: one of the two exists.
    """
    public = path.with_name(path.name + PUBLIC)
    for one in (path, public):
        if one.exists():
            raise ConfigError(f"{one} exists: choose another name, a key is never replaced")
    key = Ed25519PrivateKey.generate()
    path.parent.mkdir(parents=True, exist_ok=True)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(private)
    public.write_bytes(
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return public


def sign(folder: Path, key: Path) -> Path:
    """Sign a bundle or an export.

    Args:
        folder: of the bundle or export; it is checked before.
        key: private key, PEM, readable by its owner alone.

    Returns:
        The path of the signature, which replaces an earlier one.

    Raises:
        ConfigError: the key is not an Ed25519 private key, or others can read it.
        ArtifactError: the folder is neither a bundle nor an export, or is damaged.
    """
    private = _private_key(key)
    if (folder / EXPORT).exists():
        read_export(folder)
    elif (folder / CARD).exists():
        model_card.read(folder)
    else:
        raise ArtifactError(
            f"{folder} is neither a bundle nor an export: name the folder that `chestxray train` "
            f"or `chestxray export` made"
        )
    files = _listed(folder)
    signed = base64.b64encode(private.sign(message(files))).decode("ascii")
    signature = Signature(files=files, key=_fingerprint(private.public_key()), signature=signed)
    write_json(path_of(folder), signature.model_dump(mode="json"))
    return path_of(folder)


def check_signature(folder: Path, public_key: Path) -> None:
    """Check that the holder of a key signed exactly the files of a folder.

    Args:
        folder: of a bundle or an export.
        public_key: Ed25519 public key, PEM.

    Raises:
        SignatureError: there is no signature, it is damaged or of another key, a file was changed,
            added, removed or renamed, or there is something else than files.
        ConfigError: the public key cannot be read or is none.
    """
    key = _public_key(public_key)
    signature = _read(folder)
    _verify(folder, signature, key, public_key)
    found, wanted = _listed(folder), signature.files
    problems = {
        "changed": [name for name in found if name in wanted and found[name] != wanted[name]],
        "not signed": [name for name in found if name not in wanted],
        "missing": [name for name in wanted if name not in found],
    }
    said = [f"{', '.join(sorted(names))} {how}" for how, names in problems.items() if names]
    if said:
        raise SignatureError(
            f"{folder} is not what was signed: {'; '.join(said)}: get the folder and its "
            f"signature again from whom you trust, or sign it with `{_MADE_BY}`"
        )


def _read(folder: Path) -> Signature:
    path = path_of(folder)
    if not path.exists() and (folder / SUFFIX).exists():  # a bundle of the hub
        path = folder / SUFFIX
    if not path.exists():
        raise SignatureError(
            f"{folder} has no signature {path}: get it from who made the folder, or sign it with "
            f"`{_MADE_BY} {folder} --key KEY`"
        )
    try:
        return Signature.model_validate(read_json(path, _MADE_BY))
    except (ArtifactError, ValidationError) as error:
        raise SignatureError(
            f"{path} is not a signature of this version: get it again, or sign the folder with "
            f"`{_MADE_BY}`"
        ) from error


def _verify(folder: Path, signature: Signature, key: Ed25519PublicKey, path: Path) -> None:
    if signature.key != _fingerprint(key):
        raise SignatureError(
            f"{folder} is signed by another key ({signature.key}) than {path} "
            f"({_fingerprint(key)}): use the key of who made it, or do not use the folder"
        )
    try:
        key.verify(base64.b64decode(signature.signature, validate=True), message(signature.files))
    except (InvalidSignature, binascii.Error) as error:
        raise SignatureError(
            f"{path_of(folder)} is not the signature of the files that it lists by {path}: get "
            f"folder and signature again from whom you trust"
        ) from error


def _listed(folder: Path) -> dict[str, str]:
    """Give the SHA-256 of each file by its name.

    Raises:
        SignatureError: not a folder, or something in it is no regular file, such as a folder.
    """
    if not folder.is_dir():
        raise SignatureError(f"{folder} is not a folder: name a bundle or an export")
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    for path in entries:
        if not path.is_file():
            raise SignatureError(
                f"{path} is not a regular file: bundles and exports hold files only, remove it"
            )
    return {path.name: sha256(path) for path in entries}


def _private_key(path: Path) -> Ed25519PrivateKey:
    if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path} can be read by others than its owner: chmod 600 {path}")
    load = partial(load_pem_private_key, password=None)
    key = _key(path, load, "private key without password")
    if not isinstance(key, Ed25519PrivateKey):
        raise _not_ed25519(path)
    return key


def _public_key(path: Path) -> Ed25519PublicKey:
    key = _key(path, load_pem_public_key, f"public key such as KEY{PUBLIC}")
    if not isinstance(key, Ed25519PublicKey):
        raise _not_ed25519(path)
    return key


def _key(path: Path, load: Callable[[bytes], object], what: str) -> object:
    """Read a key of any algorithm from a PEM file."""
    if not path.is_file():
        raise ConfigError(f"{path} is not a key file: make one with `chestxray keygen`")
    try:
        return load(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"the key {path} cannot be read: {error}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is not a {what}, PEM: make one with `chestxray keygen`"
        ) from error


def _not_ed25519(path: Path) -> ConfigError:
    return ConfigError(f"{path} is not an Ed25519 key: make one with `chestxray keygen`")


def _fingerprint(key: Ed25519PublicKey) -> str:
    """Give the first 16 hexadecimal digits of the SHA-256 of the raw public key."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
