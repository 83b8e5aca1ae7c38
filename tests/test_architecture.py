"""A folder for each thing that a person can name, and every folder imports only from those under it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "steadytune"
#: What each package may import of ours, besides itself and `errors`, `names` and `version`, which import nothing.
ALLOWED: dict[str, set[str]] = {
    "support": set(),
    "core": {"support"},
    "heads": {"support"},
    "tasks": {"heads", "support"},
    "methods": {"core"},
    "integrations": {"core", "support"},
    "testing": {"core", "methods", "integrations"},
    "settings": {"tasks", "heads", "support"},
    "models": {"core", "methods", "tasks", "heads", "support"},
    "training": {"models", "settings", "heads", "tasks", "integrations", "methods", "core", "support"},
    "evaluation": {"training", "models", "settings", "heads", "tasks", "core", "support"},
    "proposal": {"training", "models", "settings", "tasks", "heads", "support"},
    "comparison": {
        *("evaluation", "training", "models", "settings", "heads", "tasks", "integrations", "methods", "core"),
        "support",
    },
    "prediction": {"comparison", "training", "models", "settings", "heads", "tasks", "core", "support"},
    "reporting": {"comparison", "settings", "tasks", "support"},
}
#: They may import everything.
TOP = {"cli", "notebook", "__main__"}
LEAVES = {"errors", "names", "version"}
#: Folders inside a package, those below first: each imports only from those before it.
INSIDE = {
    "core": ("model", "arithmetic", "state", "authoring", "stack"),
    "tasks": ("files", "named"),
    "comparison": ("statistics", "engines", "search"),
}
LARGEST_SHARE = 0.16
LONGEST_FUNCTION = 60
MOST_NAMES_OF_A_CLASS = 25
MOST_MODULES_OF_A_FOLDER = 20
#: More than they should have.
LARGE_FOLDERS = {"methods": 35}
LARGE_CLASSES: dict[str, int] = {}

MODULES = {
    ".".join(("steadytune", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}


def imported(tree: ast.Module) -> Iterator[str]:
    """Our modules that a module imports, at its top, for types, or inside a function."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "steadytune":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "steadytune")


IMPORTS = {name: set(imported(ast.parse(path.read_text(encoding="utf-8")))) - {name} for name, path in MODULES.items()}


def package(module: str) -> str:
    """The package of a module, or its own name where it lies in none."""
    return module.split(".")[1] if "." in module else ""


def folder(module: str) -> str:
    """The folder inside of the package, empty for modules that lie in the package itself."""
    parts = module.split(".")
    return parts[2] if len(parts) > 2 and (SOURCE / parts[1] / parts[2]).is_dir() else ""


def upward() -> list[str]:
    """Imports of a package that lies above."""
    return [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        if package(name) and package(name) not in TOP
        for other in others
        if package(other) not in ALLOWED.get(package(name), set()) | {package(name)} | LEAVES
    ]


def circles() -> list[str]:
    """Modules that import each other, at any distance."""
    reached: dict[str, set[str]] = {}
    for name in MODULES:
        found: set[str] = set()
        waiting = list(IMPORTS[name])
        while waiting:
            other = waiting.pop()
            if other not in found and other in IMPORTS:
                found.add(other)
                waiting += IMPORTS[other]
        reached[name] = found
    return [name for name in MODULES if name in reached[name]]


def test_a_package_imports_only_what_lies_below() -> None:
    assert upward() == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circles() == []


def test_every_folder_is_in_the_table() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders == {*ALLOWED, "cli"}
    assert {path.stem for path in SOURCE.glob("*.py")} == {*LEAVES, "notebook", "__main__", "__init__"}


def test_no_package_is_most_of_the_house() -> None:
    sizes: dict[str, int] = {}
    for name, path in MODULES.items():
        sizes[package(name)] = sizes.get(package(name), 0) + len(path.read_text(encoding="utf-8").splitlines())
    assert {name: size for name, size in sizes.items() if size > LARGEST_SHARE * sum(sizes.values())} == {}


@pytest.mark.parametrize("outer", INSIDE)
def test_a_folder_inside_a_package_imports_only_what_lies_below(outer: str) -> None:
    order = INSIDE[outer]
    wrong = [
        f"{name} imports {other}"
        for name, others in IMPORTS.items()
        if package(name) == outer and folder(name) in order
        for other in others
        if package(other) == outer and folder(other) in order
        if order.index(folder(other)) > order.index(folder(name))
    ]
    assert wrong == []


def test_functions_and_classes_stay_short() -> None:
    found = []
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION:
                found.append(f"{name}.{node.name}")
            if isinstance(node, ast.ClassDef):
                public = [x for x in node.body if isinstance(x, ast.FunctionDef) and not x.name.startswith("_")]
                if len(public) > LARGE_CLASSES.get(node.name, MOST_NAMES_OF_A_CLASS):
                    found.append(f"{name}.{node.name}: {len(public)}")
    assert found == []


def test_folders_stay_small() -> None:
    found = {}
    for path in {path.parent for path in MODULES.values()}:
        count = sum(p.stem != "__init__" for p in path.glob("*.py"))
        if count > LARGE_FOLDERS.get(path.name, MOST_MODULES_OF_A_FOLDER):
            found[path.name] = count
    assert found == {}
