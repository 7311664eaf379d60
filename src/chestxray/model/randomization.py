"""Classifiers with random weights: the cascading randomisation of Adebayo et al. (NeurIPS 2018).

Weights are drawn anew as for a new network, from the head downwards, so that what a map still shows
was not learnt by the layers above (arXiv 1810.03292, section 3.1).
"""

from __future__ import annotations

import torch

from chestxray.model.ensemble import Network, members_of, network_of
from chestxray.model.model_card import ModelCard
from chestxray.model.network import Classifier


def randomized(card: ModelCard, trained: Network, share: float, seed: int) -> Network:
    """Give a network whose head and topmost backbone layers have random weights.

    Args:
        card: of the model.
        trained: its network; is not changed. Of an ensemble, each member is randomised.
        share: of the backbone's layers, from its end, 0 (the head alone) to 1 (all).
        seed: of the random weights.

    Returns:
        In evaluation mode, on the device of `trained`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = network_of(card)
    for new, old in zip(members_of(fresh), members_of(trained), strict=True):
        _keep_layers(new, old, share)
    place = members_of(trained)[0].mean.device
    return fresh.eval().to(place).to(memory_format=torch.channels_last)


def _keep_layers(fresh: Classifier, trained: Classifier, share: float) -> None:
    """Copy the layers that are not randomised."""
    state = trained.backbone.state_dict()
    # A layer is a module with tensors of its own; they are listed in the order of their definition.
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in state))
    kept = set(layers[: round((1 - share) * len(layers))])
    fresh.backbone.load_state_dict(
        {name: tensor for name, tensor in state.items() if name.rpartition(".")[0] in kept},
        strict=False,
    )
    fresh.norms.load_state_dict(trained.norms.state_dict())  # statistics, not weights
    fresh.mean.copy_(trained.mean)
    fresh.std.copy_(trained.std)
