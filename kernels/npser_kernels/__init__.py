"""The compiled loops of npser, and nothing else.

Every kernel assigns all elements of its outputs (the first arguments), reads none of them before, checks nothing and allocates
nothing large. Each is plain Python as well: with ``NUMBA_DISABLE_JIT=1`` it runs uncompiled.

Legend: N rows (frames of all utterances), B utterances, L frames of one, T pooled frames, C channels, H units.
``bounds (B+1,)``: utterance u is rows ``bounds[u]:bounds[u+1]``. ``dX`` is the gradient of ``X``.
"""

import atexit
import os
import shutil
import tempfile

import numba
from numba.core import config


def jit(kernel):
    """Compile at the first call, keep the result on disk, release the interpreter lock.

    ``error_model="numpy"`` lets loops that divide vectorise. Of fast-math, "nnan" and "ninf" stay off: they would fold a test
    for NaN to False.
    """
    options = {
        "cache": True,
        "nogil": True,
        "error_model": "numpy",
        "fastmath": {"reassoc", "contract", "arcp", "nsz", "afn"},
    }
    try:
        return numba.njit(**options)(kernel)
    except RuntimeError:  # neither the package's folder nor the home can be written: compile anew in each process
        os.environ["NUMBA_CACHE_DIR"] = folder = tempfile.mkdtemp(prefix="npser-kernels-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        config.reload_config()
        return numba.njit(**options)(kernel)
