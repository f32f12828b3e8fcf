"""`python -m setadam_conformance`: the same as `setadam-conformance`."""

import sys

from setadam_conformance.cli import main

if __name__ == "__main__":
    sys.exit(main())
