"""The public API: what `import chestxray` offers, and what that costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import chestxray
from chestxray.errors import MissingExtraError

VERBS = ("prepare", "train", "pretrain", "crossval", "ensemble", "calibrate", "predict", "evaluate",
         "validate", "compare", "plan", "explain", "report", "load", "synth", "verify")  # fmt: skip


def python(code: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("name", chestxray.__all__)
def test_every_public_name_is_there_and_documented(name):
    value = getattr(chestxray, name)
    assert name == "__version__" or value.__doc__
    assert name in dir(chestxray)


def test_everything_that_the_command_line_does_is_a_function():
    for verb in VERBS:
        assert callable(getattr(chestxray, verb))


def test_the_public_names_are_about_fifty():
    assert 35 <= len(chestxray.__all__) <= 55


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = chestxray.nothing


def test_importing_the_package_loads_no_other_room():
    loaded = python(
        "import sys, chestxray;"
        "print(sorted(name for name in sys.modules if name.startswith('chestxray.')))"
    )
    assert loaded == "['chestxray.errors', 'chestxray.lazy', 'chestxray.version']"


WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "timm", "lightning"}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Absent())
"""


def test_the_core_evaluates_and_prepares_without_torch():
    python(
        f"{WITHOUT_TORCH}from chestxray import evaluate, compare, prepare, verify, synth, Results"
    )


def test_what_needs_torch_names_the_extra_that_installs_it():
    told = python(
        f"{WITHOUT_TORCH}import chestxray\n"
        "try: chestxray.train\n"
        "except chestxray.MissingExtraError as error: print(error)"
    )
    assert told.endswith("pip install 'chestxray[train]'")
    assert issubclass(MissingExtraError, chestxray.ChestXrayError)
