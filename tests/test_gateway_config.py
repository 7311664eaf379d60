"""`gateway.toml`: each error names its key; rules choose what each destination receives."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import numpy as np
import pytest

from chestxray.errors import ConfigError, Notice, RefusedError
from chestxray.findings import Findings
from chestxray.reading.reader import Reading
from chestxray.serving.gateway import config as settings
from chestxray.serving.gateway.store import Image
from chestxray.serving.gateway.supervisor import _check_rules
from chestxray.serving.gateway.worker import receives
from chestxray.sources.nih import FINDINGS
from gateway_parts import config

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = ("deploy/gateway.toml", "deploy/compose/gateway.toml")

GOOD = """
state = "state"
[receive]
allow = ["PACS"]
[[destinations]]
name = "pacs"
kind = "stow"
url = "https://pacs.example/dicom-web"
"""


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_shipped_example_is_valid(example: str) -> None:
    settings.load(REPOSITORY / example)


def test_every_key_is_documented() -> None:
    page = (REPOSITORY / "docs" / "gateway.md").read_text(encoding="utf-8")
    for table in settings.TABLES:
        for key in table.model_fields:
            assert re.search(rf"[`.]{key}[`.\[]", page), f"{table.__name__}.{key}"


def test_everything_has_a_careful_default(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD)
    loaded = settings.load(path)
    assert loaded.receive.host == "127.0.0.1"
    assert loaded.state == tmp_path / "state"
    assert loaded.destinations[0].send == ["sr", "sc"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('state = "state"\n', "", "state: is missing"),
        ('allow = ["PACS"]', "", "receive.allow: is missing"),
        ('allow = ["PACS"]', "allow = []", "receive.allow: must not be empty"),
        ('["PACS"]', '["A_TITLE_THAT_IS_TOO_LONG"]', "receive.allow[0]: an AE title has 1 to 16"),
        ("[receive]", "[receive]\nport = 0", "receive.port: must be at least 1"),
        (
            "[receive]",
            "[receive]\nassociation = 3",
            "receive.association: unknown key, did you mea",
        ),
        ("[receive]", "[receive]\ntls = {}", "receive.tls.certificate: is missing"),
        ("[receive]", "[reed]\n[receive]", "reed: unknown key, did you mean read?"),
        ("[receive]", '[read]\noperating_point = ""\n[receive]', "read.operating_point: "),
        (
            '"stow"',
            '"dicomweb"',
            "destinations[0]: kind must be 'dicom' or 'stow', not 'dicomweb'",
        ),
        ('kind = "stow"', "", "destinations[0]: kind is missing, it must be 'dicom' or 'stow'"),
        ('"stow"', '"stow"\nport = 4242', "destinations[0].port: is not a key of this table"),
        ('"stow"', '"stow"\nheaders = 1', "destinations[0].headers: must be a table"),
        ('"pacs"', '"the pacs"', "destinations[0].name: must consist of letters"),
        ("[receive]", '[receive]\nport = "14112"', "receive.port: must be a whole number, without"),
        ("[receive]", "[receive]\nport = 104.5", "receive.port: must be a whole number"),
        ("[receive]", '[receive]\nae_title = ""', "receive.ae_title: an AE title has 1 to 16"),
        ("[receive]", "[receive]\nae_title = 'A\\B'", "no backslash"),
        ('state = "state"', "state = 1", "state: must be a path in quotes"),
        ("[receive]", "[receive]\nhost = 1", "receive.host: must be text in quotes"),
        ('["PACS"]', '"PACS"', "receive.allow: must be a list"),
        ("[[dest", '[read]\nsend_refusals = "no"\n[[dest', "send_refusals: must be true or false"),
        ("[[dest", '[[poll]]\nurl = "http://x"\nsince = "May"\n[[dest', "poll[0].since: must be a"),
        ('"https:', '"smb:', "destinations[0].url: must be http://"),
        ('"stow"', '"stow"\nsend = ["pdf"]', "destinations[0].send[0]: must be 'sr'"),
        ("[[dest", "[read]\nworkers = 0\n[[dest", "read.workers: must be at least 1"),
        ("[receive]", "[receive", "is not valid TOML"),
        ("https://", "https://user:hunter2@", "destinations[0].url: must not contain a user name"),
        ("https://pacs.example", "http://[pacs", "destinations[0].url: must be http://"),
        ("pacs.example", "pacs.example:70000", "destinations[0].url: must be http://"),
        ("https://pacs.example/", "https:///", "destinations[0].url: must be http://"),
        (
            "/dicom-web",
            "/dicom-web/studies/",
            "destinations[0].url: must be the URL of the service",
        ),
        ("[[dest", '[audit]\nsyslog = "host:99999"\n[[dest', "audit.syslog: must be a socket"),
        ("[[dest", '[audit]\nsyslog = "host:0"\n[[dest', "audit.syslog: must be a socket"),
        ("[[dest", '[audit]\nheaders = {A = "b"}\n[[dest', "audit: headers are for url, which is"),
        ("[[dest", "[read]\nlease = inf\n[[dest", "read.lease: must be a finite"),
        ("[[dest", "[storage]\nfree_mib = 4096\n[[dest", "spare_mib = 2048 must not be less"),
        ("[[dest", 2 * '[[poll]]\nurl = "http://x/"\n' + "[[dest", "poll must have different urls"),
    ],
)
def test_an_error_names_its_key(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in GOOD
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ConfigError) as caught:
        settings.load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_whole_number_does_for_seconds_and_a_date_may_stand_in_quotes(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    polls = [
        f"[[poll]]\nurl = 'http://{n}'\nsince = {since}\nseconds = 5\n"
        for n, since in enumerate(("2026-01-31", "'2026-01-31'"))
    ]
    path.write_text(GOOD + "".join(polls))
    assert [(one.since, one.seconds) for one in settings.load(path).poll] == [
        (dt.date(2026, 1, 31), 5)
    ] * 2


def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        settings.load(tmp_path)


def test_two_destinations_of_one_name_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    with pytest.raises(ConfigError, match="does not exist"):
        settings.load(path)
    path.write_text(GOOD + GOOD[GOOD.index("[[dest") :])
    with pytest.raises(ConfigError, match="different names"):
        settings.load(path)


def test_a_secret_in_a_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(GOOD + 'headers = ["Bearer hunter2"]\n')
    with pytest.raises(ConfigError) as caught:
        settings.load(path)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    ['{Authorization = "hunter2 ü"}', '{Authorization = "hunter2\\n"}', '{"hunter2 key" = "x"}'],
)
@pytest.mark.parametrize("table", ["poll[0]", "audit", "destinations[0]"])
def test_headers_that_cannot_be_sent_are_refused_and_not_repeated(
    tmp_path: Path, table: str, headers: str
) -> None:
    path = tmp_path / "gateway.toml"
    service = f'url = "https://x"\nheaders = {headers}\n'
    tables = {"poll[0]": "[[poll]]", "audit": "[audit]"}
    more = f"headers = {headers}\n" if table not in tables else f"{tables[table]}\n{service}"
    path.write_text(GOOD + more)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as caught:
        settings.load(path)
    assert f"{table}.headers: must be names and values of ASCII" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def reading(*called: str) -> Reading:
    calls = {finding: finding in called for finding in FINDINGS} | {"Hernia": None}
    image, thresholds = np.zeros((8, 8), np.uint8), dict.fromkeys(FINDINGS, 0.5)
    return Reading(dict.fromkeys(FINDINGS, 0.1), calls, {}, (), "model", image, thresholds)


def rules_of(folder: Path, *findings: str) -> settings.Config:
    to = '[[destinations]]\nname = "x"\nkind = "stow"\nurl = "http://x"\n'
    return config(folder, to + f"rules = [{{called = true}}, {{findings = {list(findings)}}}]\n")


def test_a_rule_may_name_a_finding_of_the_model_in_any_spelling(tmp_path: Path) -> None:
    known = Findings(["Effusion", "Rib fracture", "Mediastinal widening"])
    _check_rules(rules_of(tmp_path, "Pleural Effusion", "rib_fracture", known[2]), known)


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("Efusion", ", did you mean Effusion?"),
        ("Pneumothorax", ", it has Effusion, Rib fracture"),
    ],
)
def test_a_rule_that_names_a_finding_of_another_model_is_an_error(
    tmp_path: Path, name: str, rest: str
) -> None:
    known = Findings(["Effusion", "Rib fracture"])
    with pytest.raises(ConfigError) as caught:
        _check_rules(rules_of(tmp_path, "Effusion", name), known)
    place = "destinations[0].rules[1].findings: the model does not have"
    assert str(caught.value) == f"{place} {name!r}{rest}"


REFUSAL = RefusedError("film.dcm", [Notice("blank", "nothing is on it", {}, refuses=True)])


@pytest.mark.parametrize(
    ("rules", "outcome", "sent"),
    [
        ("", reading(), True),
        ("", REFUSAL, True),
        ('{findings = ["Mass", "Nodule"]}', reading("Nodule"), True),
        ('{findings = ["Mass", "Nodule"]}', reading("Edema"), False),
        ('{findings = ["Hernia"]}', reading(), False),
        ("{called = true}", reading("Edema"), True),
        ("{called = true}", reading(), False),
        ("{called = false}", reading(), True),
        ("{called = false}", reading("Edema"), False),
        ("{called = true}", REFUSAL, False),
        ("{called = false}", REFUSAL, False),
        ('{modalities = ["CR"]}', reading(), False),
        ('{modalities = ["CR", "DX"]}', REFUSAL, True),
        ('{findings = ["pleural effusion", "Lungs"]}', reading("Effusion"), True),
        ('{calling = ["WARD"]}', reading(), True),
        ('{calling = ["OTHER"]}', reading(), False),
        ('{calling = ["WARD"], findings = ["Mass"]}', reading("Edema"), False),
        ('{calling = ["OTHER"]}, {findings = ["Edema"]}', reading("Edema"), True),
    ],
)
def test_rules_choose_by_call_modality_and_sender(
    tmp_path: Path, rules: str, outcome: Reading | RefusedError, sent: bool
) -> None:
    to = '[[destinations]]\nname = "x"\nkind = "stow"\nurl = "http://x"\n'
    loaded = config(tmp_path, to + f"rules = [{rules}]\n")
    image = Image("1.2", "ab", "WARD", "DX")
    assert receives(loaded.destinations[0], image, outcome) == sent
