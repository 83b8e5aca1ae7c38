"""Installs the built packages away from the repository and runs them there: python tests/helpers/outside.py dist.

The new environment takes the dependencies of this one, but not its steadytune, so that torch is not fetched again.
"""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]


def environment(folder: Path) -> Path:
    """A new environment that also looks into the packages of this one, past what is installed there for editing."""
    venv.create(folder, with_pip=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder / "bin"


def check(package: Path, readme: list[str]) -> None:
    """Install one package and run the command line and the README's Python with it."""
    with tempfile.TemporaryDirectory() as name:
        away = Path(name)
        bin = environment(away / "venv")
        install = [
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            str(package.resolve()),
        ]
        subprocess.run([bin / "python", *install], check=True)
        where = [bin / "python", "-c", "import steadytune; print(steadytune.__file__)"]
        found = subprocess.run(where, check=True, cwd=away, capture_output=True, text=True).stdout.strip()
        if not found.startswith(str(away)):
            sys.exit(f"{package.name}: {found} was imported, not what was installed")
        for verb in (["--help"], ["methods"], ["doctor"]):
            subprocess.run([bin / "steadytune", *verb], check=True, cwd=away, stdout=subprocess.DEVNULL)
        for code in readme:
            subprocess.run([bin / "python", "-c", code], check=True, cwd=away, capture_output=True)
        print(f"{package.name}: installed and run in {away}")


if __name__ == "__main__":
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    for built in sorted(Path(sys.argv[1]).glob("steadytune-*")):
        check(built, blocks)
