"""`python -m deepnet.explorer` writes report/explorer.html."""

import sys

from deepnet.explorer.page import write
from experimentTable import UsageError

if __name__ == "__main__":
    try:
        if sys.argv[1:]:
            raise UsageError(f"takes no arguments, got {' '.join(sys.argv[1:])}")
        print(f"Made {write()}")
    except UsageError as error:
        sys.exit(f"deepnet.explorer: {error}")
