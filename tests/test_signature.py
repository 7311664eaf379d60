"""Signatures: what the holder of a key did not sign is refused, wherever a bundle is opened."""

from __future__ import annotations

import base64
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cryptography", reason="needs the sign extra")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import chestxray
from chestxray.artifacts import sha256
from chestxray.cli import main as command_line
from chestxray.errors import ArtifactError, ConfigError, MissingExtraError, SignatureError
from chestxray.model import check_signature, create_key, sign, signature
from chestxray.serving.gateway import supervisor
from gateway_parts import config


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "signing.key"
    create_key(path)
    return path


@pytest.fixture
def public(key: Path) -> Path:
    return key.with_name("signing.key.pub")


@pytest.fixture
def bundle(run: Path, tmp_path: Path, key: Path) -> Path:
    """A signed copy of the run's bundle."""
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    sign(tmp_path / "bundle", key)
    return tmp_path / "bundle"


def ran(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    """Run a command in this process; it raises what the command line turns into a line."""
    monkeypatch.setattr("sys.argv", ["chestxray", "--debug", *map(str, words)])
    with pytest.raises(SystemExit, match="0"):
        command_line.main()


def test_the_private_key_is_its_owners_alone_and_never_replaced(tmp_path):
    path = tmp_path / "keys" / "signing.key"
    public = create_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        create_key(path)
    path.unlink()
    with pytest.raises(ConfigError, match=r"signing\.key\.pub exists"):
        create_key(path)
    assert b"PRIVATE" in before
    assert b"PRIVATE" not in public.read_bytes()


def test_a_private_key_that_others_can_read_is_not_used(bundle, key, tmp_path):
    loose = tmp_path / "loose.key"
    shutil.copy(key, loose)
    loose.chmod(0o640)
    with pytest.raises(ConfigError, match="chmod 600"):
        sign(bundle, loose)


def test_a_signed_bundle_is_read_and_its_signature_lies_beside_it(bundle, public):
    assert (bundle.parent / "bundle.sig").is_file()
    listed = json.loads((bundle.parent / "bundle.sig").read_text())["files"]
    assert listed == {path.name: sha256(path) for path in bundle.iterdir()}
    check_signature(bundle, public)
    assert chestxray.load(bundle, "torch", require_signature=public).bundle.identity


def test_openssl_verifies_the_signature(bundle, public, tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not there")
    found = json.loads((bundle.parent / "bundle.sig").read_text())
    files = {path.name: sha256(path) for path in bundle.iterdir()}
    listed = json.dumps(files, sort_keys=True, separators=(",", ":"))
    (tmp_path / "message").write_text(f"signature of chestxray files, format 1\n{listed}")
    (tmp_path / "signature").write_bytes(base64.b64decode(found["signature"]))
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", public, "-rawin"]
    command += ["-in", tmp_path / "message", "-sigfile", tmp_path / "signature"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert "Verified Successfully" in done.stdout


def altered_thresholds(bundle: Path) -> None:
    """Halve what calls each finding: a valid card, of another identity."""
    card = json.loads((bundle / "bundle.json").read_text())
    for thresholds in (card["thresholds"], *card["operating_points"].values()):
        for finding, threshold in thresholds.items():
            thresholds[finding] = threshold and threshold / 2
    (bundle / "bundle.json").write_text(json.dumps(card))


def listed_without_signing(bundle: Path) -> None:
    """Add a file, and add it to the list too."""
    (bundle / "more").write_text("x")
    path = bundle.parent / "bundle.sig"
    found = json.loads(path.read_text())
    found["files"]["more"] = sha256(bundle / "more")
    path.write_text(json.dumps(found))


CHANGES = {
    "bundle.json changed": altered_thresholds,
    "more not signed": lambda bundle: (bundle / "more").write_text("x"),
    "gate.safetensors missing": lambda bundle: (bundle / "gate.safetensors").unlink(),
    "weights.safetensors missing": lambda bundle: (bundle / "weights.safetensors").rename(
        bundle / "weights2.safetensors"
    ),
    "not the signature of the files": listed_without_signing,
    "has no signature": lambda bundle: (bundle.parent / "bundle.sig").unlink(),
    "not a signature of this version": lambda bundle: (bundle.parent / "bundle.sig").write_text(
        "{"
    ),
    "not a regular file": lambda bundle: (bundle / "folder").mkdir(),
}


@pytest.mark.parametrize("reason", CHANGES)
def test_what_was_not_signed_is_refused_with_the_reason(bundle, public, reason):
    CHANGES[reason](bundle)
    with pytest.raises(SignatureError, match=reason):
        chestxray.load(bundle, require_signature=public)


def test_a_bundle_changed_with_all_its_hashes_is_read_unless_a_signature_is_required(
    bundle, public
):
    altered_thresholds(bundle)
    assert chestxray.load(bundle, "torch")
    with pytest.raises(SignatureError, match=r"bundle\.json changed"):
        chestxray.load(bundle, "torch", require_signature=public)


def test_the_signature_of_another_key_is_refused(bundle, tmp_path):
    other = create_key(tmp_path / "other.key")
    with pytest.raises(SignatureError, match="signed by another key"):
        check_signature(bundle, other)


def test_a_signature_that_claims_the_right_key_is_refused(bundle, public, tmp_path):
    other = tmp_path / "other.key"
    create_key(other)
    honest = json.loads((bundle.parent / "bundle.sig").read_text())
    sign(bundle, other)
    forged = json.loads((bundle.parent / "bundle.sig").read_text()) | {"key": honest["key"]}
    (bundle.parent / "bundle.sig").write_text(json.dumps(forged))
    with pytest.raises(SignatureError, match="not the signature of the files"):
        check_signature(bundle, public)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\nMCow\n", None])
def test_what_is_no_public_key_is_told(bundle, tmp_path, key, content):
    wrong = tmp_path / "wrong.pub"
    if content is None:
        shutil.copy(key, wrong)  # the private key
    else:
        wrong.write_bytes(content)
    with pytest.raises(ConfigError, match="not a public key"):
        check_signature(bundle, wrong)
    with pytest.raises(ConfigError, match="not a key file"):
        check_signature(bundle, tmp_path / "missing.pub")


def _pem(key: object) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (_pem(ec.generate_private_key(ec.SECP256R1())), "not an Ed25519 key"),
        # The same key with the object identifier 1.3.101.99 in place of Ed25519's 1.3.101.112.
        (_pem(Ed25519PrivateKey.generate()).replace(b"K2Vw", b"K2Vj"), "not a public key"),
    ],
)
def test_a_key_of_another_algorithm_is_told(bundle, tmp_path, content, reason):
    (tmp_path / "other.pub").write_bytes(content)
    with pytest.raises(ConfigError, match=reason):
        check_signature(bundle, tmp_path / "other.pub")


def test_a_damaged_folder_is_not_signed(bundle, key, tmp_path):
    (bundle / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(ArtifactError, match="weights"):
        sign(bundle, key)
    with pytest.raises(ArtifactError, match="neither a bundle nor an export"):
        sign(tmp_path / "nothing", key)


def test_an_export_needs_a_signature_of_its_own(bundle, exported, key, public, tmp_path):
    engine = Path(shutil.copytree(exported, tmp_path / "export"))
    with pytest.raises(SignatureError, match="export has no signature"):
        chestxray.load(bundle, engine, require_signature=public)
    sign(engine, key)
    assert chestxray.load(bundle, engine, require_signature=public).engine.name
    record = json.loads((engine / "export.json").read_text())
    (engine / "export.json").write_text(json.dumps(record | {"misses": []}, indent=1))
    with pytest.raises(SignatureError, match=r"export\.json changed"):
        chestxray.load(bundle, engine, require_signature=public)


def test_a_signature_cannot_be_required_of_a_reader(bundle, public, phantoms, tmp_path):
    reader = chestxray.load(bundle, "torch")
    for verb, out in ((chestxray.predict, "p.csv"), (chestxray.explain, "e")):
        with pytest.raises(SignatureError, match=r"give require_signature to chestxray\.load"):
            verb(reader, phantoms, tmp_path / out, require_signature=public)


def test_every_verb_that_opens_a_bundle_refuses_one_without_signature(
    bundle, public, phantoms, tmp_path, monkeypatch
):
    (bundle.parent / "bundle.sig").unlink()
    out = ("--out", tmp_path / "out.csv", "--require-signature", public)
    commands = [
        ("predict", bundle, phantoms, *out),
        ("explain", bundle, phantoms, *out),
        ("explain", bundle, "--phantom-pairs", "1", *out),
        ("export", bundle, "--format", "onnx", *out),
        ("serve", bundle, "--port", "0", "--require-signature", public),
    ]
    for words in commands:
        with pytest.raises(SignatureError, match="has no signature"):
            ran(monkeypatch, *words)
    assert not (tmp_path / "out.csv").exists()


def test_the_gateway_does_not_start_with_a_bundle_without_signature(bundle, public, tmp_path):
    shutil.copy(public, tmp_path / "key.pub")  # a path in gateway.toml is relative to it
    settings = config(tmp_path, '[read]\nrequire_signature = "key.pub"\n')
    assert settings.read.require_signature == tmp_path / "key.pub"
    (bundle.parent / "bundle.sig").unlink()
    with pytest.raises(SignatureError, match="has no signature"):
        supervisor.check(settings, bundle)


def test_without_the_extra_it_says_how_to_install_it(run, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("cryptography")]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "cryptography", None)
    monkeypatch.delitem(sys.modules, "chestxray.model.signature")
    monkeypatch.delitem(vars(sys.modules["chestxray.model"]), "check_signature")
    with pytest.raises(MissingExtraError, match=r"chestxray\[sign\]"):
        chestxray.load(run / "bundle", require_signature=tmp_path / "any.pub")


def test_the_commands_make_a_key_and_sign(run, tmp_path, monkeypatch, capsys):
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    ran(monkeypatch, "keygen", tmp_path / "a.key")
    ran(monkeypatch, "sign", tmp_path / "bundle", "--key", tmp_path / "a.key")
    assert str(tmp_path / "bundle.sig") in capsys.readouterr().out
    signature.check_signature(tmp_path / "bundle", tmp_path / "a.key.pub")
