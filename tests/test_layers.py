"""The layers of the package: each module imports only from its own layer and those above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import chestxray

PACKAGE = Path(chestxray.__file__).parent
LAYERS = (
    {
        "findings",
        "errors",
        "artifacts",
        "cluster",
        "execution",
        "progress",
        "parallel",
        "version",
        "lazy",
        "csv_cells",
        "dicom_elements",
        "file_locks",
        "file_names",
        "hub",
        "plain_yaml",
        "process_limits",
        "storage",
        "table_limits",
    },
    {"sources"},
    {"dataset"},
    {"evaluation"},
    {"reporting"},
    {"model"},
    {"training"},
    {"reading"},
    {"serving"},
    {"cli"},
    {"__main__"},
)
RANK = {room: rank for rank, rooms in enumerate(LAYERS) for room in rooms}
TORCH = {"torch", "torchvision", "timm", "lightning", "kornia", "safetensors"}
FIRST_WITH_TORCH = RANK["model"]


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module
            found.add(node.module)
            found |= {
                f"{node.module}.{alias.name}"
                for alias in node.names
                if f"{node.module}.{alias.name}" in MODULES
            }
    return found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "chestxray" and len(parts) > 1 else None


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_from_its_layer_and_above(module: str) -> None:
    own = room(module)
    if own is None:  # the package itself names what its rooms offer, and no room may use it
        return
    assert own in RANK, f"{module}: a new room needs a place in the layers"
    for imported in imports(MODULES[module]):
        other = room(imported)
        if other is not None:
            assert RANK[other] <= RANK[own], f"{module} imports {imported}, which lies below it"
        if imported.split(".")[0] in TORCH:
            assert RANK[own] >= FIRST_WITH_TORCH, f"{module} needs no torch but imports {imported}"


def test_no_room_imports_a_public_name_from_the_package_itself() -> None:
    """That would be a cycle: the package gets these names from its rooms."""
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "chestxray":
                for alias in node.names:
                    assert f"chestxray.{alias.name}" in MODULES, f"{module} imports {alias.name}"


def test_serving_never_imports_training() -> None:
    for module, path in MODULES.items():
        if room(module) == "serving":
            assert "training" not in {room(imported) for imported in imports(path)}


def test_no_modules_import_each_other_in_a_cycle() -> None:
    graph = {
        module: {name for name in imports(path) if name in MODULES and name != module}
        for module, path in MODULES.items()
    }
    # A package and its own modules are one unit: importing `a.b` runs `a/__init__.py` first.
    for module, names in graph.items():
        graph[module] = {name for name in names if not module.startswith(f"{name}.")}
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " → ".join((*path, module))
        if module not in done:
            for imported in sorted(graph[module]):
                visit(imported, (*path, module))
            done.add(module)

    for module in sorted(graph):
        visit(module, ())


def test_the_layer_test_sees_an_import_inside_a_function(tmp_path: Path) -> None:
    file = tmp_path / "module.py"
    file.write_text("def f():\n    from chestxray.training import fit\n", encoding="utf-8")
    assert "chestxray.training" in imports(file)
