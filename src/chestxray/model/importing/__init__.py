"""Checkpoints of other projects as bundles: `chestxray import`.

`formats` is the table of what can be imported; `tensors` opens a file, in a process of its own
(`unpickling`) where it is a pickle of whole objects; `names` turns the names of its tensors into
timm's; `checkpoint` makes the bundle.
"""

from chestxray.model.importing.checkpoint import Choices, Imported, import_checkpoint
from chestxray.model.importing.formats import FORMATS, Format

__all__ = ["FORMATS", "Choices", "Format", "Imported", "import_checkpoint"]
