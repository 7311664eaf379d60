"""The checkpoints that can be imported, in one table: to add one, add an entry to `FORMATS`.

An entry says what the file holds, how the names of its tensors become timm's, what its outputs are,
how its authors make the network's input, and what is known of its images and its licence. A value
that is None is the user's to give, or not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import timm
import torch
from torch import Tensor

from chestxray.errors import BundleError
from chestxray.model.importing import names
from chestxray.model.importing.names import Renaming
from chestxray.model.model_card import TIMM_NAME
from chestxray.model.origin import Crops, PerChannel
from chestxray.sources.nih.tables import FINDINGS

IMAGENET: Final[tuple[PerChannel, PerChannel]] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_LAYERS: Final = (
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.activation.Sigmoid",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.dropout.Dropout",
    "torch.nn.modules.linear.Linear",
    "torch.nn.modules.pooling.AdaptiveAvgPool2d",
    "torch.nn.modules.pooling.AvgPool2d",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
    "torch.nn.parallel.data_parallel.DataParallel",
)
_DENSENET: Final = ("DenseNet", "_DenseBlock", "_DenseLayer", "_Transition")


@dataclass(frozen=True)
class Format:
    """One kind of checkpoint.

    Attributes:
        summary: what it is, as a phrase.
        rename: from the names in the file to timm's.
        backbone: timm's name of the network.
        outputs: what its outputs are, in their order; empty text for one that was never trained.
        side: of the network's images, pixels.
        crops: that its authors read, and of an image of which side; None where it is the whole.
        normalisation: mean and standard deviation; None for those of timm's model.
        final_activation: the network ends in timm's own activation.
        thresholds: of the outputs, by their names.
        classes: as `module.name`, that its pickle holds.
        left: names of tensors that the network does not need.
        sources: short names of the data sets that it was trained on.
        from_imagenet: its authors' code starts from ImageNet's weights.
        url, citation, licence, preprocessing, differences, training_list: as in `Origin`.
    """

    summary: str
    rename: Renaming
    backbone: str | None = None
    outputs: tuple[str, ...] | None = None
    side: int | None = None
    crops: tuple[int, Crops] | None = None
    normalisation: tuple[PerChannel, PerChannel] | None = None
    final_activation: bool = True
    thresholds: dict[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    from_imagenet: bool = False
    url: str | None = None
    citation: str | None = None
    licence: str | None = None
    preprocessing: str | None = None
    differences: str | None = None
    training_list: str | None = None


_CHEXNET: Final = "Rajpurkar et al., CheXNet, arXiv:1711.05225, is the work that it repeats"
_TEN_CROPS: Final = (
    "RGB, the shorter side to 256 px (PIL, bilinear), ten crops of 224 px, ImageNet's mean and "
    "standard deviation, mean probability of the crops"
)
_SQUARE: Final = (
    "an image that is not square is padded with black instead of cropped; resized by area "
    "averaging instead of PIL's filter"
)
_DENSENET_121: Final = Format(
    summary="DenseNet-121 of CheXNet",
    rename=names.by(names.CHEXNET),
    backbone="densenet121",
    outputs=FINDINGS,
    side=224,
    crops=(256, Crops(side=224, rule="ten")),
    normalisation=IMAGENET,
    sources=("nih",),
    from_imagenet=True,
    citation=_CHEXNET,
    preprocessing=_TEN_CROPS,
    differences=_SQUARE,
)

_TXV_OUTPUTS: Final = (
    "Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema",
    "Fibrosis", "Effusion", "Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass",
    "Hernia", "Lung Lesion", "Fracture", "Lung Opacity", "Enlarged Cardiomediastinum",
)  # fmt: skip
_TXV_THRESHOLDS: Final = "op_threshs"
_TXV_RELEASE: Final = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
_TXV_DENSENET: Final = "-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
_TXV: Final = Format(
    summary="of torchxrayvision",
    rename=names.by(names.TORCH),
    backbone="densenet121",
    outputs=_TXV_OUTPUTS,
    side=224,
    normalisation=(0.5, 2.0**-11),
    classes=(*_LAYERS, *(f"torchxrayvision.models.{name}" for name in _DENSENET)),
    left=(_TXV_THRESHOLDS,),
    citation="Cohen et al., TorchXRayVision, MIDL 2022, arXiv:2111.00595",
    licence="the repository is under Apache 2.0; the data sets have terms of their own",
    preprocessing="one channel, (2x - 1) × 1024 for grey values x in [0, 1], the centre square, "
    "resized",
    differences=_SQUARE,
)


def _txv(file: str, sources: tuple[str, ...], thresholds: dict[str, float]) -> Format:
    """Describe a file of torchxrayvision; an output without a threshold was never trained."""
    return replace(
        _TXV,
        summary=f"torchxrayvision's DenseNet-121 of {file.removesuffix(_TXV_DENSENET)}",
        url=_TXV_RELEASE + file,
        outputs=tuple(name if name in thresholds else "" for name in _TXV_OUTPUTS),
        thresholds=thresholds,
        sources=sources,
    )


def _by_name(*values: float | None) -> dict[str, float]:
    pairs = zip(_TXV_OUTPUTS, values, strict=True)
    return {name: value for name, value in pairs if value is not None}


_TORCHXRAYVISION: Final = {
    "torchxrayvision-all": _txv(
        f"nih-pc-chex-mimic_ch-google-openi-kaggle{_TXV_DENSENET}",
        ("nih", "padchest", "chexpert", "mimic", "nih-google", "openi", "rsna"),
        _by_name(
            0.07422872, 0.038290843, 0.09814756, 0.0098118475, 0.023601074, 0.0022490358,
            0.010060724, 0.103246614, 0.056810737, 0.026791653, 0.050318155, 0.023985857,
            0.01939503, 0.042889766, 0.053369623, 0.035975814, 0.20204692, 0.05015312,
        ),
    ),
    "torchxrayvision-nih": _txv(
        f"nih{_TXV_DENSENET}",
        ("nih",),
        _by_name(
            0.039117552, 0.0034529066, 0.11396341, 0.0057298196, 0.00045666535, 0.0018880932,
            0.012037827, 0.038744126, 0.0037213727, 0.014730946, 0.016149804, 0.054241467,
            0.037198864, 0.0004403434, None, None, None, None,
        ),
    ),
    "torchxrayvision-pc": _txv(
        f"pc{_TXV_DENSENET}",
        ("padchest",),
        _by_name(
            0.031012505, 0.013347598, 0.081435576, 0.001262615, 0.002587246, 0.0035944257,
            0.0023071, 0.055412333, 0.044385884, 0.042766232, 0.043258056, 0.037629247,
            0.005658899, 0.0091741895, None, 0.026507627, None, None,
        ),
    ),
    "torchxrayvision-chex": _txv(
        f"chex{_TXV_DENSENET}",
        ("chexpert",),
        _by_name(
            0.1988969, 0.05710573, None, 0.0531293, 0.1435217, None, None, 0.27212676, 0.07749717,
            None, 0.19712369, None, None, None, 0.09932402, 0.09273402, 0.3270967, 0.10888247,
        ),
    ),
    "torchxrayvision-mimic_nb": _txv(
        f"mimic_nb{_TXV_DENSENET}",
        ("mimic",),
        _by_name(
            0.08558747, 0.011884617, None, 0.0040595434, 0.010733786, None, None, 0.118761964,
            0.022924708, None, 0.06358637, None, None, None, 0.022143636, 0.017476924, 0.1258702,
            0.014020768,
        ),
    ),
    "torchxrayvision-mimic_ch": _txv(
        f"mimic_ch{_TXV_DENSENET}",
        ("mimic",),
        _by_name(
            0.09121389, 0.010573786, None, 0.005023008, 0.003698257, None, None, 0.08001232,
            0.037242252, None, 0.05006329, None, None, None, 0.019866971, 0.03823637, 0.11303808,
            0.0069147074,
        ),
    ),
    "torchxrayvision-rsna": _txv(
        f"kaggle{_TXV_DENSENET}",
        ("rsna",),
        {"Pneumonia": 0.13486601, "Lung Opacity": 0.13511065},
    ),
    "torchxrayvision-resnet50": replace(
        _TXV,
        summary="torchxrayvision's ResNet-50 of five data sets, at 512 px",
        url=f"{_TXV_RELEASE}pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt",
        backbone="resnet50",
        side=512,
        classes=(),
        sources=("padchest", "nih", "rsna", "siim", "vindr"),
        thresholds=_by_name(
            0.51570356, 0.50444704, 0.53787947, 0.50723547, 0.5025118, 0.5035252, 0.5038076,
            0.51862943, 0.5078151, 0.50724894, 0.5056339, 0.510706, 0.5053923, 0.5020846, None,
            0.5080557, 0.5138526, None,
        ),
    ),
}  # fmt: skip

FORMATS: Final[dict[str, Format]] = {
    "arnoweng": replace(
        _DENSENET_121,
        summary="model.pth.tar of arnoweng/CheXNet",
        url="https://github.com/arnoweng/CheXNet",
        licence="the repository states none",
        training_list="arnoweng-train",
    ),
    "zoogzog": replace(
        _DENSENET_121,
        summary="m-25012018-123527.pth.tar of zoogzog/chexnet",
        url="https://github.com/zoogzog/chexnet",
        training_list="arnoweng-train",
    ),
    "jrzech": replace(
        _DENSENET_121,
        summary="pretrained/checkpoint of jrzech/reproduce-chexnet",
        crops=None,
        classes=(*_LAYERS, *(f"torchvision.models.densenet.{name}" for name in _DENSENET)),
        url="https://github.com/jrzech/reproduce-chexnet",
        licence="BSD 3-Clause",
        preprocessing="RGB, the shorter side to 224 px (PIL, bilinear), the centre square, "
        "ImageNet's mean and standard deviation",
        training_list="arnoweng-train",
    ),
    "keras-chexnet": replace(
        _DENSENET_121,
        summary="brucechou1983_CheXNet_Keras_0.3.0_weights.h5 of brucechou1983/CheXNet-Keras",
        rename=names.keras_densenet,
        crops=None,
        final_activation=False,
        url="https://github.com/brucechou1983/CheXNet-Keras",
        licence="MIT",
        preprocessing="RGB, resized to 224 × 224 px whatever its shape, ImageNet's mean and "
        "standard deviation",
        differences="an image that is not square is padded with black instead of stretched; "
        "resized by area averaging",
        training_list="chexnet-keras-train",
    ),
    **_TORCHXRAYVISION,
    "timm": Format(
        summary="the state dict of a timm model",
        rename=names.by((names.DATA_PARALLEL, (r"^model\.", ""))),
    ),
    "torchvision": Format(
        summary="the state dict of a DenseNet or ResNet of torchvision",
        rename=names.by(names.CHEXNET),
        normalisation=None,
    ),
}

_BY_FILE: Final = "torchxrayvision"


def format_of(name: str, path: Path) -> tuple[str, Format]:
    """Find a format by its name; `torchxrayvision` is one of them by the name of the file.

    Raises:
        BundleError: there is none of this name, the file's name is not a published one, or it is
            the published one of another format.
    """
    published = _published(path)
    if name == _BY_FILE:
        if published is None:
            raise BundleError(
                f"{path.name} is not the name of a file of torchxrayvision: name its weights with "
                f"--from, one of {', '.join(_TORCHXRAYVISION)}"
            )
        return published, FORMATS[published]
    if name not in FORMATS:
        raise BundleError(f"there is no format {name!r}: choose from {', '.join(choices())}")
    if name in _TORCHXRAYVISION and published not in {None, name}:
        raise BundleError(
            f"{path.name} is the file of {published}, not of {name}: --from {published}"
        )
    return name, FORMATS[name]


def _published(path: Path) -> str | None:
    """Give the format whose published file has this name, whatever its ending."""
    files = {str(of.url): name for name, of in _TORCHXRAYVISION.items()}
    return files.get(f"{_TXV_RELEASE}{path.stem}.pt")


def check_thresholds(name: str, of: Format, tensors: Mapping[str, Tensor]) -> None:
    """Check that the thresholds in a file of torchxrayvision, where it has any, are the format's.

    Raises:
        BundleError: they are others, so that it is the file of other weights.
    """
    given = tensors.get(_TXV_THRESHOLDS)
    if name not in _TORCHXRAYVISION or given is None:
        return
    own = torch.tensor([of.thresholds.get(output, torch.nan) for output in of.outputs or ()])
    if given.shape != own.shape or not torch.allclose(
        given.float(), own, rtol=1e-4, atol=0, equal_nan=True
    ):
        raise BundleError(
            f"its thresholds (op_threshs) are not those of {name}: name its own weights with "
            f"--from, one of {', '.join(_TORCHXRAYVISION)}"
        )


def choices() -> tuple[str, ...]:
    """Give the names that `format_of` knows."""
    return (*FORMATS, _BY_FILE)


_TORCHVISION: Final = ("densenet", "resnet", "resnext", "wide_resnet")


def check_backbone(name: str, backbone: str) -> None:
    """Check that a network's name is one of timm's, and has timm's tensors in torchvision too.

    Raises:
        BundleError: it is not plain, so that timm would look in a hub or a folder; timm has no such
            weights of it; or torchvision's network of this name has other tensors.
    """
    if not re.fullmatch(TIMM_NAME, backbone):
        raise BundleError(f"--backbone {backbone} is not a plain name of timm's, such as resnet50")
    try:
        timm.get_pretrained_cfg(backbone)
    except RuntimeError as error:  # it knows the network, and not what stands after the dot
        raise BundleError(
            f"timm has no {backbone} ({error}): leave out what follows the dot"
        ) from error
    if name == "torchvision" and not backbone.startswith(_TORCHVISION):
        raise BundleError(
            f"torchvision's {backbone} has other layers than timm's: DenseNets and ResNets alone "
            f"are imported from torchvision"
        )
