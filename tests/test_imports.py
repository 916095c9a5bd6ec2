"""The rooms of the library: who may import whom, and how long a file may be."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "odejax"
FILES = sorted(ROOT.rglob("*.py"))

# From the door down. A room imports from itself and from the rooms below it.
ROOMS = (
    "ensemble",
    "ivp",
    "linear",
    "mass",
    "problem",
    "arguments",
    "spans",
    "solution",
    "integrate",
    "derivative",
    "stepping",
    "tableaus",
    "linalg",
    "core",
)
MAX_LINES = 300
MAX_LINES_OF_COEFFICIENTS = 400  # in tableaus/

FOR_EACH_FILE = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def is_module(name: str) -> bool:
    path = ROOT.parent / Path(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").exists()


def imports(path: Path) -> set[str]:
    """The modules of odejax that a file imports, anywhere in it."""
    package = module_name(path).split(".")
    if path.name != "__init__.py":
        package = package[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{module}.{alias.name}"
                found.add(name if is_module(name) else module)
    return {name for name in found if name.split(".")[0] == "odejax"}


def room(module: str) -> str | None:
    """The room of a module; None for the package itself."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


@FOR_EACH_FILE
def test_imports_only_rooms_below(path):
    here = room(module_name(path))
    if here is None:
        return  # odejax/__init__.py gathers the public names
    assert here in ROOMS, f"{here} is no room; give it a floor in ROOMS"
    for module in imports(path):
        there = room(module)
        assert there is not None, f"{module} imports everything: import from the room"
        assert ROOMS.index(there) >= ROOMS.index(here), f"{here} is below {there}: {module}"


def test_imports_have_no_circle():
    graph = {module_name(path): imports(path) for path in FILES}
    done = set()

    def visit(module, trail):
        assert module not in trail, f"circle: {' -> '.join([*trail, module])}"
        if module not in done:
            for other in graph.get(module, ()):
                visit(other, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])


@FOR_EACH_FILE
def test_files_are_short(path):
    limit = MAX_LINES_OF_COEFFICIENTS if "tableaus" in path.parts else MAX_LINES
    n_lines = len(path.read_text().splitlines())
    assert n_lines <= limit, f"{n_lines} lines: is it one idea?"


def test_names_of_the_package_exist():
    import odejax

    assert [name for name in odejax.__all__ if not hasattr(odejax, name)] == []
    assert (ROOT / "py.typed").exists()


def test_sparse_matrices_are_imported_by_those_who_have_one():
    """They take longer to import than all of odejax."""
    command = "import sys, odejax; assert 'jax.experimental.sparse' not in sys.modules"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=ROOT.parent)
