"""`python -m leo_edge` is `leo-edge`."""

import sys

from leo_edge.cli import main

if __name__ == "__main__":
    sys.exit(main())
