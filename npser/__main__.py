"""``python -m npser``: the command."""

import sys

from npser.commands.cli import main

sys.exit(main())
