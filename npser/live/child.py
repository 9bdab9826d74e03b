"""Processes of a server, that end when it does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence


def started(module: str, words: Sequence[object], descriptors: Sequence[int]) -> subprocess.Popen[bytes]:
    """A process that runs the main() of a module with some words, and is handed some open files.

    It finds modules where this process does, and nowhere else. BLAS has one thread, where the user has not said otherwise.
    """
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path if place)
    return subprocess.Popen(
        [sys.executable, "-P", "-c", f"from {module} import main; main()", *map(str, words)],
        pass_fds=descriptors,
        start_new_session=True,  # Ctrl-C is for the server, which finishes what runs
        env={"OPENBLAS_NUM_THREADS": "1"} | os.environ | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
