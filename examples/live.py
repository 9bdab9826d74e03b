"""Name the emotion of live sound, once a second.

python examples/live.py runs/NAME/model.safetensors                  from the microphone; pip install sounddevice
python examples/live.py runs/NAME/model.safetensors recording.wav    from a file that stands in for it
"""

import sys
from collections.abc import Iterable, Iterator

import numpy as np
import soundfile

import npser
from npser.lite import Model, Prediction


def live(
    model: Model, blocks: Iterable[np.ndarray], rate: int, every: float = 1.0, memory: float = 7.5
) -> Iterator[tuple[float, Prediction]]:
    """Listen to blocks (n,) float32 of any length, at rate Hz; yield the time in seconds and what the last 7.5 s say."""
    recent, total, due = np.empty(0, np.float32), 0, round(every * rate)
    for block in blocks:
        while len(block):
            part, block = block[: due - total], block[due - total :]
            total += len(part)
            recent = np.concatenate([recent, part])[-round(memory * rate) :]
            if total == due:
                due += round(every * rate)
                yield total / rate, model.predict(recent, rate)


def microphone(rate: int) -> Iterator[np.ndarray]:
    """A tenth of a second at a time, without end."""
    import sounddevice  # pyright: ignore[reportMissingImports] (an extra)

    with sounddevice.InputStream(rate, channels=1, dtype="float32") as stream:
        while True:
            block, _ = stream.read(rate // 10)
            yield block[:, 0]


def recording(path: str) -> Iterator[np.ndarray]:
    """The same of a file."""
    for block in soundfile.blocks(path, soundfile.info(path).samplerate // 10, dtype="float32", always_2d=True):
        yield block.mean(axis=1)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    rate = soundfile.info(sys.argv[2]).samplerate if len(sys.argv) == 3 else 16000
    sound = recording(sys.argv[2]) if len(sys.argv) == 3 else microphone(rate)
    try:
        for seconds, p in live(npser.load(sys.argv[1]), sound, rate):
            print(f"{seconds:6.0f} s  {p.emotion or p.reason:<12} {max(p.probabilities.values(), default=0):.2f}", flush=True)
    except KeyboardInterrupt:
        pass
