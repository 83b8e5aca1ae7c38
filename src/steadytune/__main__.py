"""``python -m steadytune`` is the command line."""

import sys

from steadytune.cli import main

if __name__ == "__main__":
    sys.exit(main())
