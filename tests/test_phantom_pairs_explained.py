"""A bundle on pairs of phantoms: files, command line, random weights, and the page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import chestxray
from chestxray.errors import SourceError
from chestxray.findings import Findings
from chestxray.model import bundle
from chestxray.model.network import Classifier
from chestxray.model.randomization import randomized
from chestxray.reading import explain_pairs
from chestxray.reading.phantom_pairs import PairExplanation
from chestxray.sources.phantom import pairs
from command_line import run_command as command
from fake_run import page_of


@pytest.fixture(scope="module")
def explained(run: Path, tmp_path_factory: pytest.TempPathFactory) -> PairExplanation:
    return explain_pairs(run / "bundle", tmp_path_factory.mktemp("causal"), patients=3)


def test_changes_are_those_that_the_reader_gives_for_the_two_radiographs(
    run: Path, explained: PairExplanation
) -> None:
    reader = chestxray.load(run / "bundle", "torch")
    drawn = list(pairs(3, ["Edema"], reader.size))
    k = reader.findings.index("Edema")
    before, _ = reader.read_batch(np.stack([pair.without for pair in drawn]))
    after, _ = reader.read_batch(np.stack([pair.with_finding for pair in drawn]))
    effect = explained.effects.findings["Edema"]
    assert effect.probability.value == pytest.approx((after - before)[:, k].mean(), abs=1e-6)
    assert effect.crosstalk["Mass"].value == pytest.approx(
        (after - before)[:, reader.findings.index("Mass")].mean(), abs=1e-6
    )


def test_every_finding_is_drawn_and_listed_with_controls(explained: PairExplanation) -> None:
    told = json.loads(explained.path.read_text(encoding="utf-8"))
    assert len(told["findings"]) == 14
    assert told["all"]["pairs"] == 3 * 14
    assert told["pairs"] == {"patients": 3, "pixels": 32, "seed": 20_171}
    assert told["left_out"] == []
    assert len(told["shown"]) == 4
    assert [entry["layers"] for entry in told["randomized"]] == [
        "head", "head and half of the backbone", "all layers",
    ]  # fmt: skip
    for score in ("hit", "iou"):
        assert set(told["all"][score]) == {
            "value", "ideal", "random", "shuffled", "other_maps",
            "over_random", "over_shuffled", "over_other_maps",
        }  # fmt: skip
    with Image.open(explained.picture) as picture:
        assert picture.width > 900


def test_the_mean_change_of_the_map_is_the_change_of_the_logit(run: Path) -> None:
    loaded = bundle.load(run / "bundle")
    (pair,) = pairs(1, ["Effusion"], 32)
    images = np.stack([pair.without, pair.with_finding])
    logits, maps, _ = chestxray.load(run / "bundle", "torch").engine.run(images)
    assert (maps[1] - maps[0]).mean((1, 2)) == pytest.approx(logits[1] - logits[0], abs=1e-4)
    assert loaded.card.findings.index("Effusion") == 2


@pytest.mark.parametrize(("share", "kept"), [(0.0, 1.0), (0.5, 0.5), (1.0, 0.0)])
def test_random_weights_replace_the_head_and_the_topmost_layers_alone(
    run: Path, share: float, kept: float
) -> None:
    trained = bundle.load(run / "bundle")
    before = {name: tensor.clone() for name, tensor in trained.classifier.state_dict().items()}
    copy = randomized(trained.card, trained.classifier, share, seed=0)
    state = copy.backbone.state_dict()
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    same = [
        all(torch.equal(state[name], before[f"backbone.{name}"])
            for name in state if name.rpartition(".")[0] == layer)
        for layer in layers
    ]  # fmt: skip
    count = round(kept * len(layers))
    assert all(same[:count])
    assert not any(same[count:])
    assert not torch.equal(copy.head.weight, before["head.weight"])
    assert not copy.training
    for name, tensor in trained.classifier.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_random_weights_are_those_of_the_seed_and_leave_torch_as_it_was(run: Path) -> None:
    trained = bundle.load(run / "bundle")
    state = torch.random.get_rng_state()
    one, again, other = (
        randomized(trained.card, trained.classifier, 1.0, seed).head.weight for seed in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_an_untrained_model_scores_as_the_maps_of_other_findings(run: Path, tmp_path: Path) -> None:
    """Though its peaks lie on changed pixels more often than a random position."""
    trained = bundle.load(run / "bundle")
    torch.manual_seed(5)
    untrained = Classifier(trained.card.backbone, trained.card.findings, 96)
    card = trained.card.model_copy(update={"size": 96})
    bundle.save(tmp_path / "bundle", untrained, card, trained.detector)
    every = explain_pairs(tmp_path / "bundle", tmp_path, patients=8).effects.all
    for score in (every.hit, every.iou):
        assert score.over_random.value > 0
        assert score.over_other_maps.low < 0.02
        assert score.over_other_maps.high > -0.02
        assert abs(score.over_other_maps.value) < 0.25 * score.value.value + 0.02


def test_a_model_of_findings_that_phantoms_cannot_show_is_refused(
    run: Path, tmp_path: Path
) -> None:
    trained = bundle.load(run / "bundle")
    names = Findings([f"sign {number}" for number in range(len(trained.card.findings))])
    text = json.dumps(json.loads((run / "bundle" / "bundle.json").read_text(encoding="utf-8")))
    for old, new in zip(trained.card.findings, names, strict=True):
        text = text.replace(f'"{old}"', f'"{new}"')
    shutil.copytree(run / "bundle", tmp_path / "bundle")
    (tmp_path / "bundle" / "bundle.json").write_text(text, encoding="utf-8")
    with pytest.raises(SourceError, match=r"none of this model's findings \(sign 0, sign 1"):
        explain_pairs(tmp_path / "bundle", tmp_path / "out", patients=1)
    assert not (tmp_path / "out").exists()


def test_the_command_writes_beside_the_run_and_says_what_came_out(
    run: Path, tmp_path: Path
) -> None:
    done = command("explain", str(run / "bundle"), "--phantom-pairs", "1", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "causal.json: 14 pairs of 1 phantom" in done.stdout
    assert "random weights" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"causal.json", "causal.png"}


@pytest.mark.parametrize("words", [(), ("radiographs", "--phantom-pairs", "2")])
def test_explain_takes_either_radiographs_or_pairs(words: tuple[str, ...]) -> None:
    done = command("explain", "bundle", *words, "--out", "nowhere")
    assert done.returncode == 2
    assert "--phantom-pairs" in done.stderr


def test_the_page_of_a_run_shows_its_pairs(
    run: Path, explained: PairExplanation, tmp_path: Path
) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    assert "Do the heatmaps follow the cause?" not in page_of(folder)
    for path in (explained.path, explained.picture):
        shutil.copy(path, folder)
    html = page_of(folder)
    section = html[html.index('<section id="causal">') :]
    section = re.sub(r"data:image/\S+", "", section[: section.index("</section>")])
    assert section.count("<table") == 3
    assert "random weights" in section
    confused = [f for f, e in explained.effects.findings.items() if not e.own_first]
    sentence = "moves the probability of another finding more than its own"
    assert (sentence in section) == bool(confused)
    assert re.search(r"[14]\u00a0×\u00a0[14] cells", section)
