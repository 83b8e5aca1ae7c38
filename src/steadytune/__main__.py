"""``python -m steadytune`` is the command line."""

import os
import sys

# `-m` puts the current folder first, where a data folder may hold a `csv.py`; ours may lie there, so it stays, last.
try:
    if sys.path and os.path.abspath(sys.path[0]) == os.path.abspath(os.curdir):
        sys.path.append(sys.path.pop(0))
except FileNotFoundError:  # the folder was removed, which the verb says
    pass

from steadytune.cli import main

if __name__ == "__main__":
    sys.exit(main())
