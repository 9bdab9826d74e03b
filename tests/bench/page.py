"""What the page costs in Chromium: the network over 7.5 s, the blocks of a running stream, an hour of file, and its size.

python tests/bench/page.py [--model FILE]    # needs playwright and Chromium

The first two run the page's own engine on the main thread of an empty page; the hour is given to the page as a file.
"""

import argparse
import base64
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from playwright.sync_api import expect, sync_playwright
from streams import RATE, resample, talk

import npser
from npser.live import page

TIMES = 50  # of the network
SECONDS = 60  # of the running stream

ENGINE = """([program, about, weights, text]) => {
  const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  const { Model, Stream } = new Function(`${program}\\nreturn { Model, Stream };`)();
  const model = new Model(about, floats(weights).buffer);
  const x = floats(text);
  const timed = (act) => {
    const start = performance.now();
    const made = act();
    return [performance.now() - start, made];
  };
"""
NETWORK = """
  const X = new Float32Array(301 * about.config.d_spec).map((_, i) => Math.sin(i * i));
  return Array.from({ length: TIMES }, () => timed(() => model.network.run(X))[0]);
}"""
STREAM = """
  const stream = new Stream(model, HZ, 1);
  const found = [];
  for (let at = 0; at < x.length; at += HZ / 10) {
    const [spent, events] = timed(() => stream.feed(x.subarray(at, at + HZ / 10)));
    if (events.some(({ event }) => event === "answer")) found.push(spent);
  }
  return found;
}"""


def told(name: str, found: list[float]) -> None:
    """Median, 95th percentile and most of some times in milliseconds."""
    found = sorted(found[len(found) // 10 :])  # the first ones are not yet compiled
    print(f"{name}: {statistics.median(found):.1f} ms, p95 {found[len(found) * 95 // 100]:.1f} ms, most {found[-1]:.1f} ms")


def hour(tab: Any, file: Path, html: Path) -> float:
    """Seconds from the choice of an hour of wav until the page has answered it."""
    tab.goto(html.as_uri())
    began = time.perf_counter()
    tab.set_input_files("#files", file)
    expect(tab.locator("#verdict-more")).to_contain_text("the whole recording", timeout=600_000)
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    args = parser.parse_args()
    model = npser.load(args.model)
    about, numbers = page.described(model.checkpoint, "0" * 64)
    program = page.program(page.ENGINE[:-1])
    with sync_playwright() as driver, tempfile.TemporaryDirectory() as name:
        html, file = Path(name) / "page.html", Path(name) / "hour.wav"
        html.write_text(page.page(model.path), encoding="utf-8")
        weights = (len(numbers) + 2) // 3 * 4
        print(f"the page: {html.stat().st_size / 1e6:.2f} MB, {weights / 1e6:.2f} MB of it weights")
        executable = shutil.which("chromium") or shutil.which("chromium-browser")
        tab = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"]).new_page()
        for what, hz, act in (
            ("the network over 7.5 s", RATE, NETWORK),
            ("a block with an answer, 16 kHz", RATE, STREAM),
            ("a block with an answer, 48 kHz", 3 * RATE, STREAM),
        ):
            x = base64.b64encode(resample(talk(SECONDS, 0), hz).tobytes()).decode()
            act = act.replace("TIMES", str(TIMES)).replace("HZ", str(hz))
            told(what, tab.evaluate(ENGINE + act, [program, about, base64.b64encode(numbers).decode(), x]))
        soundfile.write(file, np.tile(talk(SECONDS, 0), 3600 // SECONDS), RATE, subtype="PCM_16")
        print(f"an hour of wav: {hour(tab, file, html):.1f} s")


if __name__ == "__main__":
    main()
