"""`npser serve`: the settings of the server, and where it can be reached."""

from __future__ import annotations

import argparse
import json
import sys

from npser.commands import terminal
from npser.live.limits import FIELDS, settings_of


def run(args: argparse.Namespace) -> int:
    """Run `npser serve`; returns its exit status, once it is stopped."""
    try:
        settings = settings_of({name: getattr(args, name) for name in FIELDS}, args.config)
    except ValueError as error:
        raise terminal.UsageError(str(error)) from None
    try:
        from npser.live.serve import serve
    except ImportError as error:
        if "tornado" not in str(error):
            raise
        raise ValueError("npser serve needs the package tornado; get it with: pip install 'npser[serve]'") from None

    def say(address: str) -> None:
        if args.json:
            print(json.dumps({"address": address}), flush=True)
        else:
            terminal.say_to(sys.stderr)(f"serving   {address}  (Ctrl-C ends it)")

    return serve(settings, say)
