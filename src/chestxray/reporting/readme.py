"""The model card for people: one Markdown page with the metadata that the Hugging Face hub reads.

It follows Mitchell et al., Model Cards for Model Reporting (arXiv 1810.03993): intended use,
factors, metrics with intervals, training and evaluation data, limits. Its front matter is that of
the hub's model cards: licence, tags, data sets, and the measured figures as `model-index`. It reads
`bundle.json` and, where there is one, the run around it; every number was computed before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from chestxray.artifacts import read_json, write_text
from chestxray.errors import ArtifactError
from chestxray.evaluation.bundle_thresholds import CARD, BundleThresholds, model_identity
from chestxray.evaluation.seen_images import exposures
from chestxray.evaluation.signed_numbers import number
from chestxray.file_names import one_line
from chestxray.findings import label
from chestxray.reporting import interpretation
from chestxray.reporting.formatting import counted, span
from chestxray.reporting.run_files import Json, RunFiles

_LIBRARY: Final = "chestxray"
_TASK: Final = "image-classification"
_TAGS: Final = ("chest-x-ray", "radiology", "medical-imaging", "multi-label", "timm")
_NAMES: Final = {"auroc": ("roc_auc", "AUROC"), "auprc": ("average_precision", "AUPRC")}
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>|#])")
_USE: Final = (
    "Research on the classification and explanation of chest radiographs: comparison of models, "
    "error analysis, teaching."
)
_MISUSE: Final = (
    "Diagnosis, triage and any other clinical use; exclusion of disease; views, age groups and "
    "institutions that are not in the evaluation data; other body parts and modalities. No "
    "prospective study, no reader study and no assessment of harm was done."
)


def model_card(
    folder: str | Path,
    out: str | Path | None = None,
    *,
    licence: str | None = None,
    repository: str = "hub:OWNER/NAME@REVISION",
) -> str:
    """Write the model card of a bundle as Markdown.

    Args:
        folder: of a run, whose evaluation is shown as far as it exists; or of a bundle alone.
        out: the file to write; nothing is written where None.
        licence: of the weights, as the hub names it, such as `apache-2.0` or `cc-by-nc-4.0`. The
            card says that none is stated where None.
        repository: where the bundle can be loaded from, as `hub:OWNER/NAME`.

    Returns:
        The text.

    Raises:
        ArtifactError: neither a run with a bundle nor a bundle, or a file that cannot be read.
    """
    folder = Path(folder)
    bundle = folder if (folder / CARD).exists() else folder / "bundle"
    card = read_json(bundle / CARD, "chestxray train")
    try:
        files = _run_of(bundle, card)
        head = yaml.safe_dump(
            _metadata(card, files, licence), sort_keys=False, allow_unicode=True, width=1000
        )
        sections = _sections(card, files, licence)
        body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{bundle / CARD} or the run around it is not understood ({error!r}): use the version "
            f"of chestxray that wrote it"
        ) from error
    title = f"# {_text(model_identity(card))}\n\n{_lead(card, repository)}"
    text = f"---\n{head}---\n\n{title}\n\n{body}\n"
    if out is not None:
        write_text(Path(out), text)
    return text


def _run_of(bundle: Path, card: Json) -> RunFiles | None:
    """Give the run that a bundle belongs to; None where the folder around it is of another."""
    if not (bundle.parent / "run.json").exists():
        return None
    files = RunFiles.read(bundle.parent)
    theirs = (files.run or {}).get("model")
    return files if theirs in {None, model_identity(card)} else None


def _metadata(card: Json, files: RunFiles | None, licence: str | None) -> Json:
    """Give the front matter, see https://huggingface.co/docs/hub/model-cards."""
    metrics = files.metrics if files else None
    starts = [str(of.get("repository") or "").partition("@")[0] for _, of in _starts(card)]
    bases = list(dict.fromkeys(filter(None, starts)))
    sources = [str(of["name"]) for of in files.sources] if files else []
    names = sources or list(card["trained_on"]["policies"])
    values: Json = {
        "license": licence,
        "library_name": _LIBRARY,
        "pipeline_tag": _TASK,
        "tags": [*_TAGS, *(["synthetic"] if card["trained_on"]["synthetic"] else [])],
        "datasets": [slug for name in names if (slug := _slug(name))],
        "base_model": bases[0] if len(bases) == 1 else bases,
        "metrics": [name for name, _ in _NAMES.values()] if metrics else None,
        "model-index": [_index(card, metrics)] if metrics else None,
    }
    return {name: value for name, value in values.items() if value}


def _index(card: Json, metrics: Json) -> Json:
    """Give the measured figures as the hub's `model-index`."""
    figures = [
        {"type": kind, "name": f"mean {name}", "value": round(value, 4)}
        for key, (kind, name) in _NAMES.items()
        if (value := metrics["mean"][key]["value"]) is not None
    ]
    figures += [
        {"type": "roc_auc", "name": f"AUROC {finding}", "value": round(value, 4)}
        for finding, entry in metrics["findings"].items()
        if (value := entry["auroc"]["value"]) is not None
    ]
    data = {
        "name": metrics["source"],
        "type": _slug(metrics["source"]) or "unnamed",
        "split": metrics["split"],
    }
    task = {"type": _TASK, "name": "multi-label classification of chest radiographs"}
    result = {"task": task, "dataset": data, "metrics": figures}
    return {"name": model_identity(card), "results": [result]}


def _lead(card: Json, repository: str) -> str:
    size, findings = card["size"], card["findings"]
    missing = len(_facts(card).calibration.uncalibrated)
    which = "an uncalibrated" if missing == len(findings) else "a" if missing else "a calibrated"
    some = f" (not calibrated for {counted(missing, 'finding')})" if which == "a" else ""
    return (
        f"Gives {which} probability{some} and a heatmap for each of "
        f"{counted(len(findings), 'finding')} of a chest radiograph. Network: "
        f"{_text(card['backbone'])} at {size} × {size} pixels. **For research, not a medical "
        f"device.**\n\n"
        f'```python\nimport chestxray\n\nreader = chestxray.load("{_code(repository)}")\n'
        f'reading = reader.read("radiograph.dcm")\n```'
    )


def _sections(card: Json, files: RunFiles | None, licence: str | None) -> dict[str, str]:
    return {
        "Intended use": _USE,
        "Out of scope": _MISUSE,
        "Figures": _figures(card, files),
        "What the figures support": _bullets(interpretation.supported(files)) if files else "",
        "Origin": _origin(card),
        "Training data": _training(card, files),
        "Preprocessing": _preprocessing(card),
        "Calibration and thresholds": _calibration(card),
        "Findings that are not assessed": _bullets(
            f"{_text(label(finding))}: {_text(why)}"
            for finding, why in card.get("not_assessed", {}).items()
        ),
        "Limits": _limits(files),
        "Start": _start(card),
        "Files": (
            f"`weights.safetensors`: SHA-256 `{_code(card['weights_sha256'])}`. Made by chestxray "
            f"{_text(card['package_version'])}."
        ),
        "Citation of the data": _bullets(
            f"{_text(of['title'])}: {_text(of['citation'])}"
            for of in (files.sources if files else ())
            if of.get("citation")
        ),
        "Licence": _licence(card, licence),
    }


def _facts(card: Json) -> BundleThresholds:
    return BundleThresholds.model_validate(card | {"model": ""})


def _origins(card: Json) -> list[Json]:
    """Give the files that an imported bundle, or the members of one, were imported from."""
    found = [of.get("origin") for of in (card, *card.get("members", ()))]
    return [of for of in found if of]


def _origin(card: Json) -> str:
    """Say where an imported model is from; empty for one that was trained here."""
    lines = []
    for of in _origins(card):
        converted = ", converted from a pickle" if of.get("converted") else ""
        lines.append(
            f"Imported from {_text(of['format'])}: file `{_code(of['file'])}`, SHA-256 "
            f"`{_code(of['sha256'])}`{converted}."
        )
        facts = (("Published at", "url"), ("To cite:", "citation"))
        lines += [f"{what} {_text(of[key])}" for what, key in facts if of.get(key)]
    return _bullets(dict.fromkeys(lines))


def _licence(card: Json, given: str | None) -> str:
    """Give the licence that was chosen, and what is known of that of an imported file."""
    known = dict.fromkeys(_text(of["licence"]) for of in _origins(card) if of.get("licence"))
    lines = [_text(given)] if given else []
    lines += [f"Of the imported file: {of}" for of in known]
    return "\n\n".join(lines) or "Not stated by the authors."


def _figures(card: Json, files: RunFiles | None) -> str:
    """Give the table of the evaluation; before any, that of validation."""
    metrics = files.metrics if files else None
    if metrics is None:
        return _validation_figures(card)
    rows = [
        (label(finding), str(entry["positives"]), *_row(entry))
        for finding, entry in metrics["findings"].items()
    ]
    mean = metrics["mean"]
    rows.append(("**Mean**", "", *(_interval(mean.get(key)) for key in _COLUMNS)))
    where = (
        f"{_text(metrics['source'])}, {_text(metrics['split'])} split: "
        f"{counted(metrics['images'], 'image')} of {counted(metrics['patients'], 'patient')}. "
        f"With 95 % intervals by patient; sensitivity and specificity at the operating point "
        f"`{_code(metrics.get('operating_point', 'youden'))}`."
    )
    head = ("Finding", "Positives", *_COLUMNS.values())
    return f"{where}\n\n{_table(head, rows)}"


_COLUMNS: Final = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "recall": "Sensitivity",
    "specificity": "Specificity",
}


def _row(entry: Mapping[str, Any]) -> list[str]:
    return [_interval(entry.get(key)) for key in _COLUMNS]


def _validation_figures(card: Json) -> str:
    entries = card.get("validation_auroc", {})
    if not entries:
        return "Not evaluated."
    rows = [
        (label(finding), f"{number(of['auroc'])} ({span(of)})", str(of["patients"]))
        for finding, of in entries.items()
    ]
    head = ("Finding", "AUROC on validation", "Patients on the smaller side")
    return (
        "Not evaluated on a test split. On the validation images that also chose the epoch and "
        f"fitted the calibration, with 95 % intervals by patient:\n\n{_table(head, rows)}"
    )


def _training(card: Json, files: RunFiles | None) -> str:
    of = card["trained_on"]
    release = f", release {_text(of['release'])}" if of["release"] else ""
    drawn = " Some of the radiographs are drawn by a program." if of["synthetic"] else ""
    lines = [
        (
            f"{_text(of['source'] or 'Data sets that are not recorded')}{release}"
            f"{_amount(of)}{_split(of)}.{drawn}"
        ),
        *(f"Labels of {_text(t)}: {_text(o.rstrip('.'))}." for t, o in _labels(files)),
    ]
    lines += [
        f"Policy for {_text(name)}: " + ", ".join(f"{k} {_text(v)}" for k, v in policy.items())
        for name, policy in of["policies"].items()
        if policy
    ]
    return _bullets([*lines, *map(_text, exposures(_facts(card).seen))])


def _labels(files: RunFiles | None) -> Iterable[tuple[str, str]]:
    return files.label_origins.items() if files else ()


def _amount(of: Json) -> str:
    counts = ((of["train_images"], "image"), (of["train_patients"], "patient"))
    known = " of ".join(counted(count, what) for count, what in counts if count is not None)
    return f": {known}" if known else ""


def _split(of: Json) -> str:
    hashes = (("split", "split_sha256"), ("list of training images", "training_list_sha256"))
    known = [f"{what} `{_code(of[key][:12])}`" for what, key in hashes if of[key]]
    name = [f"split {_text(of['split'])}"] if of["split"] else []
    return "".join(f", {part}" for part in (*name, *known))


def _preprocessing(card: Json) -> str:
    alone = f"then {_numbers(card['mean'])} subtracted, divided by {_numbers(card['std'])}"
    how = "each member's own normalisation" if card["backbone"] == "ensemble" else alone
    image = (
        f"Any grey radiograph (PNG, JPEG, DICOM), bright is dense, becomes {card['size']} × "
        f"{card['size']} pixels by the rule `{_code(card['pixel_rule'])}`; values in [0, 1], {how}."
    )
    lines = [image]
    lines += [rule for of in (card, *card.get("members", ())) if (rule := _views(of))]
    for of in _origins(card):
        facts = (("Its authors'", "preprocessing"), ("Differences from that", "differences"))
        lines += [f"{what}: {_text(of[key])}" for what, key in facts if of.get(key)]
    return "\n\n".join(dict.fromkeys(lines))


def _views(card: Json) -> str:
    """Say which parts and views of an image a network reads; empty for the whole image alone."""
    name, crops, views = _text(card["backbone"]), card.get("crops"), card.get("tta") or ()
    if crops and crops["rule"] == "ten":
        return (
            f"{name} reads ten crops of {crops['side']} px: four corners and the centre, each "
            f"mirrored too; their probabilities are averaged."
        )
    if crops:
        return f"{name} reads the central {crops['side']} px alone."
    words = {"flip": "mirrored", "crops": "its four corners and its centre, enlarged"}
    shown = " and ".join(words[of] for of in views)
    return f"{name} reads each image also {shown}; the logits are averaged." if views else ""


def _numbers(value: float | Sequence[float]) -> str:
    several = value if isinstance(value, list | tuple) else [value]
    return " / ".join(f"{of:g}" for of in several)


def _calibration(card: Json) -> str:
    uncalibrated = _facts(card).calibration.uncalibrated
    lines = [*_fitted(card), _thresholds(card)]
    lines += [f"{_text(label(name))}: {_text(why)}." for name, why in uncalibrated.items()]
    if not card["prevalences"]:
        return _bullets(lines)
    site = card.get("recalibrated_on")
    lines.append(
        f"Probabilities contain the prevalence of these images of {_text(site['source'])}; of a "
        f"finding without labels there, that before."
        if site
        else "Probabilities contain the prevalence of the validation images."
    )
    shares = [(label(name), f"{100 * of:.1f} %") for name, of in card["prevalences"].items()]
    head = ("Finding", "Prevalence" if site else "Prevalence in validation")
    return f"{_bullets(lines)}\n\n{_table(head, shares)}"


def _fitted(card: Json) -> Iterator[str]:
    """Say on which images each stage of the calibration was fitted."""
    first, site = card["calibration"], card.get("recalibrated_on")
    nothing = card.get("origin") and len(first.get("unfitted") or {}) == len(card["findings"])
    if not nothing:
        yield (
            f"Each finding's calibrator is strictly increasing and fitted on validation: "
            f"{_families(first)}."
        )
    elif site is None:
        yield "Not calibrated: probabilities are those of the network as it was imported."
    if site:
        last = first
        while last.get("then"):
            last = last["then"]
        yield (
            f"Calibrated again on {_text(site['source'])}, "
            f"{counted(site['images'], 'image')} of {counted(site['patients'], 'patient')}: "
            f"{_families(last)}."
        )


def _families(calibration: Json) -> str:
    families = sorted({of["family"] for of in calibration["calibrators"].values()})
    return ", ".join(map(_text, families))


def _thresholds(card: Json) -> str:
    if all(of is None for of in card["thresholds"].values()):
        return "There are no thresholds: no finding is called."
    return (
        f"Thresholds are those of the operating point `{_code(card['operating_point'])}`; the "
        f"bundle has {', '.join(f'`{_code(of)}`' for of in card['operating_points'])}."
    )


def _limits(files: RunFiles | None) -> str:
    if files is None:
        return "The bundle alone does not say how the model was evaluated."
    limits = interpretation.unsupported(files)
    return _bullets(
        f"**{_text(of.title)}.** {_text(of.sentence.replace('Results by finding', 'Figures'))}"
        for of in limits
    )


def _start(card: Json) -> str:
    if card["backbone"] != "ensemble":
        return "".join(_started_from(of) for _, of in _starts(card))
    return _bullets(
        dict.fromkeys(f"{_text(name)}: {_started_from(of)}" for name, of in _starts(card))
    )


def _starts(card: Json) -> list[tuple[str, Json]]:
    """Give the backbone of each network of a model, and what it started from; {} is not known."""
    networks = card["members"] if card["backbone"] == "ensemble" else [card]
    return [(of["backbone"], of["trained_on"].get("initial_weights") or {}) for of in networks]


def _started_from(start: Json) -> str:
    licence = f", licence {_text(start['licence'])}" if start.get("licence") else ""
    package = f", from the package `{_code(start['package'])}`" if start.get("package") else ""
    words = {
        "none": "Random weights.",
        "imagenet": f"Weights of ImageNet for this backbone{package}.",
        "file": f"A file of SHA-256 `{_code(str(start.get('sha256'))[:12])}`.",
        "hub": f"`hub:{_code(str(start.get('repository')))}`{licence}.",
        "bundle": f"The bundle {_text(str(start.get('model')))}.",
        "phantoms": "A network that was trained on drawn phantoms.",
    }
    return words.get(start.get("kind", ""), "Not recorded.")


def _interval(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric.get("value") is None:
        return "–"
    shown = number(metric["value"])
    return shown if metric.get("low") is None else f"{shown} ({span(dict(metric))})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(_lines_of(head, rows))


def _lines_of(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for first, *others in rows:
        name = first if first.startswith("**") else _text(first)
        yield f"| {' | '.join([name, *others])} |"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _slug(name: str) -> str:
    """Give a name as the hub takes that of a data set; empty where nothing is left of it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:90]


def _text(words: str) -> str:
    """Escape what Markdown or a page would read as a command."""
    return _SPECIAL.sub(r"\\\1", one_line(str(words)))


def _code(words: str) -> str:
    """Make words fit between backquotes, or between the quotes of a line of Python."""
    return re.sub(r"[`\"\\]", "", one_line(str(words)))
