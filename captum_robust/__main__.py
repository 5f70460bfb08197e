"""``python -m captum_robust``: the command line."""

import sys

from captum_robust.audit.command_line import main

if __name__ == "__main__":
    sys.exit(main())
