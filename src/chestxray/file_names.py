"""Names of files as text: bytes that are not UTF-8, and control characters, are shown escaped.

Linux allows any bytes in a name but `/` and zero. Python gives those that are not UTF-8 as lone
surrogates (PEP 383), which no text file, table or JSON document may contain.
"""

from __future__ import annotations

import hashlib
from typing import Final
from unicodedata import category

_LONGEST: Final = 200  # bytes of a name; Linux allows 255, and a temporary file needs more
_ESCAPED: Final = frozenset({"Cc", "Cs"})  # Unicode: control characters, surrogates


def is_text(name: str) -> bool:
    """Tell whether a name is valid UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def one_line(text: str) -> str:
    """Escape control characters, which would break a table's rows, and bytes that are not UTF-8."""
    return "".join(
        character.encode("unicode_escape").decode()
        if category(character) in _ESCAPED
        else character
        for character in text
    )


def shortened(path: str) -> str:
    """Cut each part of a path that would be too long for a file, and end it with a hash of it.

    Escaped names are longer than those that they stand for.
    """
    return "/".join(map(_shortened, path.split("/")))


def _shortened(name: str) -> str:
    data = name.encode()
    if len(data) <= _LONGEST:
        return name
    end = hashlib.sha256(data).hexdigest()[:16]
    return f"{data[: _LONGEST - len(end) - 1].decode(errors='ignore')}-{end}"
