"""`npser explain`: a page or a picture about one recording."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from npser.commands import terminal
from npser.explain.look import look
from npser.files import write
from npser.prediction import Prediction

PAGES, PICTURES = (".html", ".htm"), (".png", ".pdf", ".svg")


def run(args: argparse.Namespace) -> int:
    """Run `npser explain`; returns its exit status."""
    found = explain(args.audio, args.model, args.out)
    names = ("emotion", "reason", "probabilities", "gender", "gender_probabilities", "seconds")
    row = {"path": args.audio, "out": str(args.out), **{name: getattr(found, name) for name in names}}
    print(json.dumps(row, indent=2) if args.json else terminal.printable(str(args.out)))
    return 0


def explain(audio: str | os.PathLike[str], model: Path, out: Path) -> Prediction:
    """Write a page (.html) or, with matplotlib, a picture (.png, .pdf, .svg) about one recording; returns what it says.

    Raises
    ------
    ValueError
        For a recording or a model file that cannot be read, an out of another kind, or a missing matplotlib.
    """
    kind = out.suffix.lower()
    if not out.parent.is_dir():  # said before the work, which may take a while
        raise ValueError(f"--out {out}: there is no folder {out.parent}; make it, or name another")
    if kind in PICTURES:
        try:
            from npser.explain.picture import picture
        except ImportError:
            way_out = "get it with: pip install matplotlib, or name a page, --out PAGE.html, which needs nothing more"
            raise ValueError(f"--out {out}: a picture needs the package matplotlib; {way_out}") from None
        found = look(audio, model)
        content = picture(found, kind.removeprefix("."))
    elif kind in PAGES:
        from npser.explain.page import page

        found = look(audio, model)
        content = page(found).encode(errors="replace")
    else:
        raise ValueError(f"--out {out}: expected a name that ends in {', '.join((PAGES[0], *PICTURES))}")
    write(out, content)
    return found.prediction
