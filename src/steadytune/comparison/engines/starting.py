"""How further processes start: with the modules of this installation, never with those of the current folder.

Python puts the current folder before the standard library when it runs ``-m`` or ``-c``, and a folder of data files
may hold a `csv.py`. Its switch against that, ``-P``, is not in Python 3.10, so the child takes the folder out itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: Folders of this installation without Python files, so that nothing in them is imported by accident.
_HOME = Path(__file__).parents[3]
_EMPTY = Path(__file__).parents[2] / "reporting" / "templates"
#: `sys` is part of the interpreter: nothing else may be imported before the current folder is gone.
_BOOT = "import sys; sys.path[:] = [p for p in sys.path if p not in ('', '.')]; from {0} import main; main()"


def python_command(module: str) -> list[str]:
    """What runs the ``main`` of a module in a new process; its name is the last part, for those who look at processes.

    >>> python_command("steadytune.comparison.engines.local_worker")[-1]
    'steadytune.comparison.engines.local_worker'
    """
    return [sys.executable, "-c", _BOOT.format(module), module]


def import_path() -> list[str]:
    """Where this process finds modules, without the folder that it was started in; and where steadytune lies, last."""
    here = os.path.abspath(os.curdir)
    asked = {os.path.abspath(part) for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part}
    found = [path for path in sys.path if path and (os.path.abspath(path) != here or here in asked)]
    return list(dict.fromkeys([*(os.path.abspath(path) for path in found), str(_HOME)]))


def safe_environment(**more: str) -> dict[str, str]:
    """The environment of a new process, and of those that it starts.

    Args:
        more: variables that it has unless they are set already.
    """
    ours = {"PYTHONPATH": os.pathsep.join(import_path()), "PYTHONSAFEPATH": "1"}
    return {**more, **os.environ, **ours}


@contextmanager
def away_from_here() -> Iterator[None]:
    """Be in another folder with a safe environment meanwhile, where a library hands both on to processes it starts."""
    here, before = os.open(os.curdir, os.O_RDONLY), dict(os.environ)
    os.environ.update(safe_environment())
    os.chdir(_EMPTY)
    try:
        yield
    finally:
        os.fchdir(here)
        os.close(here)
        for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
            os.environ.pop(name, None)
            if name in before:
                os.environ[name] = before[name]
