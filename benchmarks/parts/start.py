"""How long `import steadytune` and `steadytune --help` take, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

from benchmarks.parts import Found
from benchmarks.rounds import interleaved, spread
from benchmarks.rows import measured
from benchmarks.setting import Setting

ROUNDS = 11
COMMANDS = {
    "python": [sys.executable, "-c", "pass"],
    "import steadytune": [sys.executable, "-c", "import steadytune"],
    "steadytune --help": [sys.executable, "-m", "steadytune", "--help"],
}


def measure(setting: Setting) -> Found:
    """Measure both beside a Python that does nothing."""

    taken = interleaved(
        {
            name: partial(subprocess.run, command, check=True, capture_output=True)
            for name, command in COMMANDS.items()
        },
        seconds=setting.seconds,
        rounds=setting.rounds(ROUNDS),
    )
    bare = f"Python alone: {spread(taken['python']).median:.3f} s"
    rows = [measured(name, "s", spread(taken[name]), limit=0.5, note=bare) for name in list(COMMANDS)[1:]]
    return Found(rows, {name: spread(seconds).as_json() for name, seconds in taken.items()})
