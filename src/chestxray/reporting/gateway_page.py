"""The page of `chestxray gateway report`: drift by week, agreement with the shadow, what is kept.

It formats what `serving.gateway.report` computed, and computes nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from chestxray.artifacts import write_text
from chestxray.reporting.formatting import environment
from chestxray.version import __version__

SECTIONS: Final = {
    "drift": "Drift",
    "notices": "Notices of the gate",
    "shadow": "Agreement with the shadow",
    "kept": "What is kept, and until when",
}


def gateway_page(values: dict[str, Any], path: Path) -> None:
    """Write the page.

    Args:
        values: as `serving.gateway.report.page_values` gives them.
        path: of the page.

    Raises:
        OSError: it cannot be written.
    """
    template = environment().get_template("gateway.html.j2")
    write_text(path, template.render(report=values, sections=SECTIONS, version=__version__))
