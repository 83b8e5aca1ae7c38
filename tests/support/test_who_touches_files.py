"""Only `support/reading.py` and `support/writing.py` open, make, rename, link and remove files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "steadytune"
THE_TWO = {"support/reading.py", "support/writing.py"}
#: Of any path or module: `Path.open`, `os.open`, `io.open`.
METHODS = frozenset(
    {"open", "fdopen", "read_text", "read_bytes", "write_text", "write_bytes", "unlink", "rename", "renames", "mkdir"}
    | {"makedirs", "touch", "rmdir", "removedirs", "symlink", "symlink_to", "link", "hardlink_to", "chmod"}
    | {"rmtree", "copyfile", "copytree", "copy2", "mkstemp", "extractall", "extract", "mkfifo", "lchmod"}
)
#: Names alone.
NAMES = frozenset({"open", "FileLock", "SoftFileLock", "TemporaryFile", "NamedTemporaryFile"})
#: Of these modules alone: others have methods of the same names.
QUALIFIED = frozenset({"os.replace", "os.remove", "os.truncate", "shutil.copy", "shutil.move", "tempfile.mkdtemp"})
#: What is no file of anybody's, or the library's way into a folder that was just made.
EXCEPTIONS = {
    ("names.py", "open"): "our own source, for an import that imports nothing",
    ("cli/verb.py", "file.read_text"): "our own source, for a line of help that imports nothing",
    ("cli/streams.py", "open"): "the null device",
    ("cli/streams.py", "os.open"): "the null device",
    ("cli/verbs/predict.py", "os.open"): "the null device",
    ("prediction/sources.py", "found.open"): "a format, which opens with `reading`",
    ("support/signals.py", "os.open"): "the null device",
    ("comparison/engines/local_worker.py", "open"): "the null device",
    ("comparison/engines/starting.py", "os.open"): "the current folder, to come back to it",
    ("comparison/engines/ray_task.py", "tempfile.mkdtemp"): "a folder that is new, on a node",
    ("comparison/engines/ray_task.py", "archive.extractall"): "into a folder that is new",
    ("comparison/remote.py", "self._files.open"): "a file of a store",
    ("comparison/remote.py", "self._files.makedirs"): "a folder of a store",
    ("training/predictions.py", "archive.open"): "a member of an archive that `reading` opened",
    ("tasks/files/sources.py", "found.open"): "a format, which opens with `reading`",
    ("training/meter.py", "_CLEAR.write_text"): "a file of the kernel",
    ("training/meter.py", "_STATUS.read_text"): "a file of the kernel",
}


def calls(tree: ast.AST) -> Iterator[str]:
    """The calls in a module that touch files by a path."""
    foreign = NAMES | {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil", "tempfile", "io")
        for alias in node.names
        if alias.name in METHODS or f"{node.module}.{alias.name}" in QUALIFIED
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if isinstance(node.func, ast.Name):
            if name in foreign:
                yield name
        elif isinstance(node.func, ast.Attribute) and (node.func.attr in METHODS or name in QUALIFIED):
            yield name


def test_no_other_module_touches_files() -> None:
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        module = path.relative_to(SOURCE).as_posix()
        if module not in THE_TWO and not module.startswith("testing/"):  # which ships no verb
            found |= {(module, name) for name in calls(ast.parse(path.read_text(encoding="utf-8")))}
    assert found == set(EXCEPTIONS)


@pytest.mark.parametrize(
    "code",
    [
        *("open(x)", "Path(x).open()", "os.open(x, 0)", "x.read_text()", "x.unlink()", "os.replace(a, b)"),
        *("shutil.rmtree(x)", "os.symlink(a, b)", "x.hardlink_to(y)", "FileLock(x)", "os.remove(x)", "x.chmod(0)"),
        "import os as o\no.rename(a, b)",
        "from shutil import rmtree as gone\ngone(x)",
    ],
)
def test_the_check_sees_what_it_should(code: str) -> None:
    assert list(calls(ast.parse(code)))


def test_the_threat_model_names_tests_that_there_are() -> None:
    page = (SOURCE.parents[1] / "SECURITY.md").read_text(encoding="utf-8")
    tests = SOURCE.parents[1] / "tests"
    defined = "".join(path.read_text(encoding="utf-8") for path in tests.rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", page)
    assert len(named) > 20
    assert [name for name in named if f"def {name}(" not in defined] == []
