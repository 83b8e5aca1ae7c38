"""``python -m steadytune.testing NAME ...``: check methods of the registry, your own among them."""

from __future__ import annotations

import sys
import traceback

import torch

from steadytune.errors import SteadytuneError
from steadytune.methods.registry import method_classes
from steadytune.testing.suite import PROPERTIES, check, reason_not_applicable, variants


def main(names: list[str]) -> int:
    """Check the named methods, or all; returns 1 if a property does not hold, 2 for a mistake."""
    torch.set_num_threads(1)
    failures = 0
    for method in method_classes(names):
        for settings in variants(method):
            print(f"{method.name} {settings}")
            for name, prop in PROPERTIES.items():
                reason = reason_not_applicable(method, name)
                if reason is not None:
                    print(f"  -     {name}: does not apply: {reason}")
                    continue
                try:
                    check(method, name, settings)
                    print(f"  holds {name}: {prop.statement}")
                except AssertionError as error:
                    failures += 1
                    print(f"  FAILS {name}: {prop.statement}\n          {error}")
                except Exception:
                    failures += 1
                    print(f"  FAILS {name}: {prop.statement}\n{traceback.format_exc()}")
    print(f"{failures} failed" if failures else "the contract holds")
    return 1 if failures else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except SteadytuneError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
