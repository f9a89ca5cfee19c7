"""``python -m faithmap``."""

import sys

from faithmap.cli import main

if __name__ == "__main__":
    sys.exit(main())
