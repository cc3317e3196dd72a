"""Run the `moleblend` command by `python -m moleblend`."""

import sys

from moleblend.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
