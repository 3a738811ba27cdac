"""`python -m gemlet` is the same as the command `gemlet`."""

import sys

from gemlet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
