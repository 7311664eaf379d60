"""Public names of a package that are loaded when they are first used (PEP 562).

So importing a package stays fast, and the names that need no extra work without it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from chestxray.errors import of_missing_module


def exports(package: str, modules: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """Give a package's `__getattr__`.

    Args:
        package: its `__name__`.
        modules: the public names that each of its modules, named relative to it, defines.

    Returns:
        A function that raises `MissingExtraError` where a name needs a package of an extra that is
        not installed, and `AttributeError` for other names.
    """
    home = {name: module for module, names in modules.items() for name in names}

    def load(name: str) -> Any:  # noqa: ANN401 - any public name
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            value = getattr(import_module(f"{package}.{home[name]}"), name)
        except ModuleNotFoundError as error:
            raise of_missing_module(error) from error
        setattr(sys.modules[package], name, value)
        return value

    return load
