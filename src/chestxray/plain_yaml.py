"""YAML from anyone: plain values, in bounded time and memory.

PyYAML's safe loader runs no code, but a text of a kilobyte can stand for 10^9 values through
aliases, refer to itself, or exhaust Python's stack by its depth. Settings need none of this, so
aliases, deep nesting and long texts are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

LONGEST: Final = 100_000  # characters; the longest recipe has 2,000
DEEPEST: Final = 20  # levels; settings have up to four


class _PlainLoader(yaml.SafeLoader):
    """Refuses aliases and deep nesting while it reads."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:  # noqa: ANN401 - PyYAML's arguments
        """Compose a value that is no alias and lies within `DEEPEST`."""
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not allowed: write each value out")
        if self._depth >= DEEPEST:
            raise yaml.YAMLError(f"it is nested too deeply: at most {DEEPEST} levels are allowed")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def text_of(path: Path) -> str:
    """Read a file without reading more of it than `load` takes.

    Raises:
        yaml.YAMLError: too long.
        OSError, UnicodeDecodeError: it cannot be read as text.
    """
    size = path.stat().st_size
    if size > 4 * LONGEST:  # UTF-8 has at most four bytes a character
        raise yaml.YAMLError(f"it has {size} bytes, at most {4 * LONGEST} are allowed")
    return path.read_text(encoding="utf-8")


def load(text: str) -> Any:  # noqa: ANN401 - whatever YAML holds
    """Read a YAML text.

    Raises:
        yaml.YAMLError: not valid YAML, too long, with aliases, nested too deeply, or with a number
            or date that Python cannot hold.
    """
    if len(text) > LONGEST:
        raise yaml.YAMLError(f"it has {len(text)} characters, at most {LONGEST} are allowed")
    try:
        # A subclass of the safe loader, without aliases and tags.
        return yaml.load(text, _PlainLoader)  # noqa: S506  # nosec B506
    except (ValueError, OverflowError) as error:  # such as 9999 digits, or the 99th of a month
        raise yaml.YAMLError(str(error)) from error
