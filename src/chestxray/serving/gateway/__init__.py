"""The gateway: a DICOM node that receives radiographs, reads them and returns the results.

One image passes `receiver` or `polling` → `intake` → `store` and `queue` → `worker` → `objects` →
`sender`. `supervisor` runs these as processes (`processes`), `config` describes them. `readings`
keeps the figures of each reading, `drift` and `agreement` compare them, `report` shows it.
"""

from chestxray.serving.gateway.config import Config
from chestxray.serving.gateway.config import load as load_config

__all__ = ["Config", "load_config"]
