"""Commands whose memory is watched."""

import subprocess
import sys
from pathlib import Path

WATCH = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True)
sys.stdout.buffer.write(done.stdout)
sys.stderr.buffer.write(done.stderr)
size = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(f"\\n{done.returncode} {size / (1 << 20 if sys.platform == 'darwin' else 1 << 10)}", file=sys.stderr)
"""


def watched(*words: str | Path, environment: dict[str, str], cwd: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run ``npser WORDS`` to its end; also its greatest resident size in MB.

    A small process starts it: a child's size begins with that of its parent.
    """
    command = [sys.executable, "-c", WATCH, sys.executable, "-m", "npser", *map(str, words)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=600, check=True)
    *lines, last = done.stderr.splitlines()
    status, size = last.split()
    return subprocess.CompletedProcess(words, int(status), done.stdout, "\n".join(lines).rstrip()), float(size)
