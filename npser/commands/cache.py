"""`npser cache`: what lies in the cache, how large it is, and when it was used last; and its removal."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from npser.commands.terminal import UsageError, printable
from npser.files import lock
from npser.store import default_cache, index_of

DAY = 86400
KINDS = ("features-", "synthetic-")


def run(args: argparse.Namespace) -> int:
    """Run `npser cache`; returns its exit status."""
    cache = args.cache or default_cache()
    found = entries(cache)
    if args.remove and args.unused is not None:
        raise UsageError("--remove and --unused: give one of the two")
    unknown = sorted(set(args.remove) - {row["name"] for row in found})
    if unknown:
        raise ValueError(f"--remove {unknown[0]}: is not in {cache}; npser cache lists what is")
    if args.unused is not None and args.unused < 0:
        raise UsageError(f"--unused {args.unused:g}: expected days, at least 0")
    since = time.time() - DAY * args.unused if args.unused is not None else None
    removed = [row for row in found if row["name"] in args.remove or (since is not None and row["used"] <= since)]
    for row in removed:
        remove(cache / row["name"])
    result = {"cache": str(cache), "entries": found, "removed": [row["name"] for row in removed]}
    print(json.dumps(result, indent=2) if args.json else text(result))
    return 0


def entries(cache: Path) -> list[dict[str, Any]]:
    """What lies in the cache, the largest first.

    Each has ``name``; ``what`` in words; ``recordings``, None where that is not known; ``bytes``; ``used``, seconds since 1970.
    """
    found = []
    for folder in cache.glob("*") if cache.is_dir() else []:
        if folder.is_dir() and folder.name.startswith(KINDS):
            sizes = [file.lstat().st_size for file in folder.rglob("*") if file.is_file()]
            about = {"name": folder.name, "bytes": sum(sizes), "used": folder.stat().st_mtime}
            found.append(about | _described(folder))
    return sorted(found, key=lambda row: (-row["bytes"], row["name"]))


def _described(folder: Path) -> dict[str, Any]:
    """What a folder of the cache is."""
    if folder.name.startswith("synthetic-"):
        return {"what": "the synthetic corpus", "recordings": len(list(folder.glob("*.flac"))) or None}
    index = index_of(folder)
    if index is None:
        return {
            "what": "of another version of npser, of a run that was killed or is at work, or damaged",
            "recordings": None,
        }
    return {"what": f"{index.get('kind', 'features')} of {index['place']}", "recordings": len(index["content"])}


def remove(folder: Path) -> None:
    """Remove a folder of the cache; whoever writes it is waited for, and whoever reads it goes on with what is open."""
    held = "-".join(folder.name.split("-")[:3])  # the name of a store, of one that is being made as well
    try:
        with lock(folder.with_name(f"{held}.lock")):
            if folder.exists():  # one that was being made has got another name
                shutil.rmtree(folder)
    except OSError as error:
        raise ValueError(f"{folder}: cannot be removed ({error.strerror}); check its permissions") from None


def text(result: dict[str, Any]) -> str:
    """What the terminal shows."""
    rows = []
    for row in printable(result["entries"]):
        count = f"{row['recordings']} files" if row["recordings"] is not None else ""
        used = datetime.fromtimestamp(row["used"]).strftime("%Y-%m-%d")
        gone = "removed  " if row["name"] in result["removed"] else ""
        rows.append(f"{row['bytes'] / 1e6:9.1f} MB  {count:>12}  {used}  {gone}{row['name']}  {row['what']}")
    total = sum(row["bytes"] for row in result["entries"] if row["name"] not in result["removed"])
    freed = sum(row["bytes"] for row in result["entries"]) - total
    kept = f"{total / 1e6:9.1f} MB in {result['cache']}" + (f", after {freed / 1e6:.1f} MB were removed" if freed else "")
    return "\n".join([*rows, kept])
