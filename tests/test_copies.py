from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import chestxray
from chestxray.dataset import copies
from chestxray.dataset.alignment import scores
from chestxray.dataset.copies import SCORE, Images, find
from chestxray.dataset.fingerprints import SIDE, descriptors, fingerprint, is_flat
from chestxray.dataset.store import Dataset
from chestxray.errors import SourceError
from chestxray.sources.phantom.population import exams, patient
from chestxray.sources.phantom.render import render
from command_line import run_command
from conftest import REAL
from planted_copies import KINDS, Image, planted, sixteen_bits

FILMS = 36
SAMPLE = REAL / "nih-sample" / "images"


@pytest.fixture(scope="module")
def films() -> dict[str, Image]:
    """Radiographs of patients who have several, by name: the hardest to tell apart."""
    if not SAMPLE.is_dir():
        pytest.skip(f"{SAMPLE} is not there: it holds real radiographs, which are not shipped")
    names = pd.Series(sorted(path.name for path in SAMPLE.iterdir()))
    several = names[names.str[:8].duplicated(keep=False)][:FILMS]
    return {name: cv2.imread(str(SAMPLE / name), cv2.IMREAD_GRAYSCALE) for name in several}


def images(named: dict[str, Image]) -> Images:
    prints = np.stack([fingerprint(image) for image in named.values()])
    return Images(tuple(named), tuple((str(hash(each.tobytes())),) for each in prints), prints)


def test_every_kind_of_planted_copy_is_found_and_no_other_radiograph_of_the_patient(films):
    made = {
        f"{kind}/{name}": planted(film, kind, np.random.default_rng([n, k]))
        for k, kind in enumerate(KINDS)
        for n, (name, film) in enumerate(films.items())
    }
    a, b = images(films), images(made)
    pairs = {(a.names[pair.a], b.names[pair.b]) for pair in find(a, b)}
    truth = {(name.rpartition("/")[2], name) for name in made}
    assert pairs <= truth
    assert len(pairs) >= 0.99 * len(truth)
    assert {(pair.b, pair.a) for pair in find(b, a)} == {(pair.a, pair.b) for pair in find(a, b)}


@pytest.fixture(scope="module")
def drawn() -> dict[str, Image]:
    """Phantoms of 12 patients at 128 px, by number: the truth where no real radiograph is there."""
    return {str(n): render(exams(patient(4, n))[0], 128).image for n in range(1, 13)}


def test_the_threshold_parts_planted_copies_of_phantoms_from_other_phantoms(drawn):
    a = images(drawn)
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    one, other = (a.prints[[pair[side] for pair in pairs]] for side in (0, 1))
    assert scores(one, other).max() < SCORE - 0.05
    for k, kind in enumerate(KINDS):
        made = {
            name: planted(image, kind, np.random.default_rng([n, k]))
            for n, (name, image) in enumerate(drawn.items())
        }
        b = images(made)
        assert scores(a.prints, b.prints).min() > SCORE, kind
        assert [pair[:2] for pair in find(a, b)] == [(n, n) for n in range(len(a))], kind


def test_films_of_one_patient_score_far_below_a_copy(films):
    names = list(films)
    pairs = [(i, j) for i in range(FILMS) for j in range(i) if names[i][:8] == names[j][:8]]
    prints = images(films).prints
    one, other = (prints[[pair[side] for pair in pairs]] for side in (0, 1))
    assert len(pairs) > 20
    assert scores(one, other).max() < SCORE - 0.05


def test_the_result_does_not_depend_on_the_blocks(films, monkeypatch):
    rng = np.random.default_rng(3)
    a = images(films)
    b = images({f"copy of {name}": planted(film, "JPEG", rng) for name, film in films.items()})
    whole, alone = find(a, b), find(b)
    monkeypatch.setattr(copies, "_BLOCK", 7)
    assert [pair[:2] for pair in find(a, b)] == [pair[:2] for pair in whole]
    assert len(whole) == FILMS
    assert [pair[:2] for pair in find(b)] == [pair[:2] for pair in alone]


def _smooth(size: int = 96, seed: int = 0) -> Image:
    noise = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 4)
    image = (image - image.min()) / (image.max() - image.min())
    return (5 + 245 * image).astype(np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: np.round(255 * (image / 255) ** 0.6).astype(np.uint8),
        lambda image: image.astype(np.uint16) * 257,
        lambda image: image.astype(np.uint16) * 3 + 1000,
        lambda image: cv2.resize(image, (200, 260), interpolation=cv2.INTER_LINEAR),
    ],
)
def test_a_fingerprint_survives_gamma_depth_window_and_stretching(
    change: Callable[[Image], Image],
):
    image = _smooth()
    a, b = fingerprint(image)[None], fingerprint(change(image))[None]
    assert a.shape == (1, SIDE, SIDE)
    assert scores(a, b)[0] > 0.97
    assert abs(scores(a, fingerprint(_smooth(seed=1))[None])[0]) < 0.5


def test_alignment_undoes_a_shift_and_a_scale_that_correlation_alone_does_not_survive():
    image = _smooth(128)
    moved = image[6:122, 2:126]
    a, b = fingerprint(image)[None], fingerprint(moved)[None]
    assert scores(a, b)[0] > 0.95


def test_what_a_window_cuts_off_is_left_out_of_the_score():
    image = _smooth(128)
    cut = (np.clip((image.astype(float) - 70) / 110, 0, 1) * 255).astype(np.uint8)
    a, b = fingerprint(image)[None], fingerprint(cut)[None]
    ends = ((b == 0) | (b == 255)).mean()
    assert 0.1 < ends < 0.6
    assert scores(a, b)[0] > 0.97


@pytest.mark.parametrize("value", [0, 100, 255])
def test_an_image_that_shows_nothing_is_like_no_other(value):
    flat = fingerprint(np.full((80, 80), value, np.uint8))[None]
    assert is_flat(flat).all()
    assert not descriptors(flat)[0].any()
    two = Images(("a", "b"), (("same",), ("same",)), np.concatenate([flat, flat]))
    assert find(two) == []


def test_a_tree_is_compared_with_another_through_the_files(films, tmp_path):
    rng = np.random.default_rng(8)
    names = list(films)[:8]
    for name in names[:6]:
        _write(tmp_path / "a" / "deep" / name, films[name])
    _write(tmp_path / "b" / "wide.png", sixteen_bits(films[names[0]], rng))
    _write(tmp_path / "b" / "small.jpg", planted(films[names[1]], "resized", rng))
    _write(tmp_path / "b" / "equal.png", films[names[2]])
    _write(tmp_path / "b" / "other.png", films[names[7]])
    _write(tmp_path / "b" / "black.png", np.zeros((90, 90), np.uint8))
    (tmp_path / "b" / "broken.png").write_bytes(b"no image")
    out = tmp_path / "pairs.csv"
    done = run_command("overlap", tmp_path / "a", tmp_path / "b", "--out", out)
    assert done.returncode == 0
    assert "1 exact pairs, 2 other copies, of 3 images of A and 3 of B" in done.stdout
    assert "1 images show nothing or have under 48 px" in done.stdout
    assert "1 files cannot be read" in done.stdout
    assert "broken.png" in done.stdout
    table = pd.read_csv(out)
    assert list(table) == ["a", "b", "score", "kind"]
    assert table[["a", "b", "kind"]].to_numpy().tolist() == [
        [f"deep/{names[0]}", "wide.png", "copy"],
        [f"deep/{names[1]}", "small.jpg", "copy"],
        [f"deep/{names[2]}", "equal.png", "exact"],
    ]
    assert table["score"].between(SCORE, 1).all()


def test_a_small_dataset_holds_exact_copies_of_its_raw_tree_and_no_others(
    phantoms: Path, dataset: Dataset
):
    found = chestxray.overlap(phantoms, dataset)
    assert (found.pairs["kind"] == "exact").all()
    assert (found.pairs["a"].str.rpartition("/")[2] == found.pairs["b"]).all()
    assert set(found.pairs["b"]) == set(dataset.index["image"])
    alone = chestxray.overlap(dataset, dataset.folder)
    assert alone.pairs.empty
    assert alone.images == (len(dataset.index), len(dataset.index))
    assert alone.left_out == len(dataset.index)


def test_copies_within_one_tree_are_listed_once(films, tmp_path):
    (name, film), (_, other) = list(films.items())[:2]
    _write(tmp_path / "1.png", film)
    _write(tmp_path / "2.png", planted(film, "gamma", np.random.default_rng(1)))
    _write(tmp_path / "3.png", other)
    _write(tmp_path / "4.png", film)
    found = chestxray.overlap(tmp_path).pairs
    assert found[["a", "b", "kind"]].to_numpy().tolist() == [
        ["1.png", "2.png", "copy"],
        ["1.png", "4.png", "exact"],
        ["2.png", "4.png", "copy"],
    ], name


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_without_radiographs_is_refused(there, tmp_path):
    folder = tmp_path / "empty"
    if there:
        folder.mkdir()
    with pytest.raises(SourceError, match=r"no radiograph|not a folder"):
        chestxray.overlap(folder)
    assert run_command("overlap", folder, "--out", tmp_path / "pairs.csv").returncode == 1
    assert not (tmp_path / "pairs.csv").exists()


def _write(path: Path, image: Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)
