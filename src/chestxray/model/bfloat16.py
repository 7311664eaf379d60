"""bfloat16 as processors with instructions for it compute, emulated in float32 on any device.

AMX and AVX-512 BF16 multiply numbers of 8 bits of precision, add the products in float32, and the
result is rounded to 8 bits when it is stored (Intel 64 and IA-32 Architectures Software Developer's
Manual, TDPBF16PS and VDPBF16PS). Here each operation of the backbone runs in float32 on rounded
weights, and its result is rounded: the same roundings at about the speed of float32, where torch's
autocast is ten times slower without such instructions.

The first convolution and the head stay in float32, as in the graph that OpenVINO runs (see
`float32_layers`): they are a few percent of the work, and rounding them costs most.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from chestxray.model.engines import Answer, Images
from chestxray.model.ensemble import Network, members_of
from chestxray.model.network import to_input
from chestxray.model.torch_engine import device_of

_ATEN: Final = torch.ops.aten
_CONVOLUTION: Final = _ATEN.convolution.default
_MULTIPLY: Final = frozenset(
    {_CONVOLUTION, _ATEN.addmm.default, _ATEN.mm.default, _ATEN.bmm.default}
)


class Bfloat16Engine:
    """A classifier whose backbone computes as in bfloat16.

    Args:
        classifier: in evaluation mode, on any device.
    """

    def __init__(self, classifier: Network) -> None:
        self.classifier = classifier
        place = device_of(classifier).type
        self.name = f"torch {torch.__version__}, bfloat16 emulated on {place}"

    def run(self, images: Images) -> Answer:
        """See `Engine.run`."""
        batch = to_input(torch.from_numpy(np.array(images)).to(device_of(self.classifier)))
        # Not in inference mode, where torch does not show the parts of its compound operations.
        with torch.no_grad(), ExitStack() as stack:
            for member in members_of(self.classifier):
                stack.callback(setattr, member, "backbone_context", member.backbone_context)
                member.backbone_context = _Rounding
            found = self.classifier.explain(batch.contiguous(memory_format=torch.channels_last))
        return Answer(*(of.float().cpu().numpy() for of in found))


class _Rounding(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's has no types
    """Rounds the result of each operation from the first convolution on, and weights before."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._multiplied = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - of any operation of torch
        if func in _MULTIPLY:
            self._multiplied += 1
            if self._multiplied > 1 or func is not _CONVOLUTION:
                args = tree_map(_rounded, args)
        found = func(*args, **(kwargs or {}))
        if self._multiplied and args and found is args[0]:  # in place: torch goes on with it
            return found.copy_(_rounded(found))
        return tree_map(_rounded, found) if self._multiplied else found


def _rounded(of: Any) -> Any:  # noqa: ANN401
    if not isinstance(of, Tensor) or of.dtype != torch.float32:
        return of
    return of.bfloat16().float()
