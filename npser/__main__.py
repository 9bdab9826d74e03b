"""``python -m npser``: the command."""

import sys

from npser.cli import main

sys.exit(main())
