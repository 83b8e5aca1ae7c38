"""``src/steadytune/__init__.pyi``: the lazy public names of `steadytune`, for type checkers and editors."""

from __future__ import annotations

from steadytune.names import public


def public_names() -> str:
    """The text of the stub, one import a name."""
    imports = []
    for name, home in public().items():
        module, attribute = home.split(":")
        imports.append(f"from {module} import {attribute} as {name}")
    return "\n".join(
        [
            '"""Public names of steadytune. Written by tools/docs/generate.py; do not edit."""',
            "",
            *sorted(imports),
            "from steadytune.version import __version__ as __version__",
            "",
            "__all__ = [",
            *(f'    "{name}",' for name in sorted(["__version__", *public()])),
            "]",
            "",
        ]
    )
