"""`python -m a3b` is the command `a3b`."""

import sys

from a3b.cli import main

if __name__ == "__main__":
    sys.exit(main())
