"""`npser explain`: one page that needs nothing else, and the same as a picture."""

import base64
import dataclasses
import html.parser
import io
import itertools
import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import GENDERS, SMALL, Command, model_file, network, one_sentence, recording, sound

from npser import checkpoint, features
from npser.explain.look import COLOURS, COLUMNS, Look, clock, frequencies, look, ticks, top_weight
from npser.explain.page import page, png
from npser.networks import mirsamadi2017
from npser.networks.li2019 import Config

SILENCE = np.zeros(40_000, np.float32)


def look_at(folder: Path, x: np.ndarray, config: Config = SMALL, genders: list[str] | None = GENDERS) -> Look:
    return look(recording(folder / "a.wav", x), network(folder, config, genders).path)


def decoded(file: bytes) -> np.ndarray:
    """The numbers of the shades of a PNG file, (H, W)."""
    width, height = struct.unpack(">II", file[16:24])
    chunks, at = {}, 8
    while at < len(file):
        (size,), kind = struct.unpack(">I", file[at : at + 4]), file[at + 4 : at + 8]
        chunks[kind], at = file[at + 8 : at + 8 + size], at + 12 + size
        assert struct.unpack(">I", file[at - 4 : at])[0] == zlib.crc32(kind + chunks[kind])
    return np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)[:, 1:]


# What is shown


def test_the_bands_and_weights_of_one_window_are_the_networks_own(tmp_path: Path):
    x = sound(15_000)
    found, model = look_at(tmp_path, x), network(tmp_path).lite
    assert (found.frames, found.seconds) == (1, 15_000 / 16_000)
    np.testing.assert_allclose(found.bands, features.log_mel(x))
    _, _, a = model.forward(model.network_input(x))
    assert a is not None
    assert found.weights is not None
    steps = a.shape[1]
    np.testing.assert_allclose(found.weights[: 3 * steps : 3].T, a * steps, rtol=1e-5)
    np.testing.assert_allclose(found.weights[2 : 3 * steps : 3].T, a * steps, rtol=1e-5)
    assert np.isnan(found.weights[3 * steps :]).all()  # frames after the last whole pooling window
    assert found.prediction.probabilities == pytest.approx(model.predict(x, 16_000).probabilities)


def test_of_steps_that_are_shorter_than_a_column_the_mean_is_shown(tmp_path: Path):
    c = mirsamadi2017.Config(d_lstm=3, max_seconds=1.0)
    path, x = model_file(tmp_path, c), sound(11_000)
    found = look(str(recording(tmp_path / "a.wav", x)), path)
    a = found.model.output(x).attention
    assert a is not None
    assert found.weights is not None
    column = np.arange(a.shape[1]) * 160 // 400
    assert column[-1] == len(found.weights) - 1
    means = [a[0, column == k].mean() * a.shape[1] for k in range(len(found.weights))]
    np.testing.assert_allclose(found.weights[:, 0], means, rtol=1e-5)


def test_the_columns_lie_where_their_frames_are(tmp_path: Path):
    """A click shows at the same place in the waveform and in the bands, in the first window and in a later one."""
    for at in (4000, 42_000):
        x = 1e-4 * sound(50_000)
        x[at : at + 40] = 0.5
        found = look_at(tmp_path, x)
        left, right = found.span
        column = np.nanargmax(found.bands.sum(axis=1))
        start = left + column / len(found.bands) * (right - left)
        assert start <= (at + 20) / 16_000 <= start + (right - left) / len(found.bands)
        part = np.argmax(found.wave[:, 1])
        assert part == (at + 20) * len(found.wave) // 50_000


def test_overlapping_windows_are_averaged_and_the_answer_is_that_of_predict(tmp_path: Path):
    x = sound(37_000)
    found, model = look_at(tmp_path, x), network(tmp_path).lite
    assert found.prediction.probabilities == pytest.approx(model.predict(x, 16_000).probabilities)
    assert len(found.prediction.timeline) == 4
    assert found.segments[0] == (0.0, 0.75)
    assert found.segments[1] == (0.75, 1.25)
    assert found.segments[-1][1] == 37_000 / 16_000
    bands = [features.log_mel(x[start : start + 16_000]) for start in (8000, 16_000)]
    np.testing.assert_allclose(found.bands[45], (bands[0][25] + bands[1][5]) / 2)
    weights = [model.forward(model.network_input(x[start : start + 16_000]))[2] for start in (8000, 16_000)]
    assert found.weights is not None
    expected = sum(a[:, frame // 3] * a.shape[1] for a, frame in zip(weights, (25, 5), strict=True) if a is not None) / 2
    np.testing.assert_allclose(found.weights[45], expected, rtol=1e-5)


def test_a_long_recording_takes_no_more_columns_and_its_levels_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("npser.explain.look.COLUMNS", 40)
    monkeypatch.setattr("npser.explain.look.EMBEDDED", 20_000)
    x = np.tile(sound(16_000), 6)
    x[48_000:] *= 0.1  # 20 dB
    found = look_at(tmp_path, x)
    assert found.frames == 7
    assert len(found.bands) == 35
    assert not np.isnan(found.bands).any()
    np.testing.assert_allclose(found.bands[3:13].mean() - found.bands[20:30].mean(), 20, atol=2)
    assert found.sound is None
    text = page(found)
    assert "<audio" in text
    assert "data:audio" not in text
    assert re.search(r'id="choose">To listen', text)  # not hidden
    assert "0.175 s" in text
    assert COLUMNS == 3000


@pytest.mark.parametrize(("frames", "steps"), [(20, 7), (21, 7), (22, 8)])
def test_a_padded_network_tells_how_much_it_looks_at_the_padding(tmp_path: Path, frames: int, steps: int):
    x = sound(400 * (frames - 1))
    padded = dataclasses.replace(SMALL, pad=True)
    found, model = look_at(tmp_path, x, padded), network(tmp_path, padded).lite
    _, _, a = model.forward(model.network_input(x))
    assert a is not None
    assert a.shape[1] == 13
    assert found.padding == pytest.approx(a[:, steps:].sum() / 2)
    assert len(found.bands) == frames
    assert f"{found.padding:.0%} of the attention" in page(found)


def test_silence_is_shown_as_what_it_is(tmp_path: Path):
    found = look_at(tmp_path, SILENCE)
    assert found.prediction.emotion is None
    text = page(found)
    assert "no answer" in text
    assert "silence" in text
    assert found.weights is None
    half = look_at(tmp_path, np.r_[sound(16_000), SILENCE])
    assert half.weights is not None
    assert np.isnan(half.weights[-20:]).all()
    assert not np.isnan(half.weights[:36]).any()


@pytest.mark.parametrize("attention", [True, False])
@pytest.mark.parametrize("genders", [GENDERS, None])
@pytest.mark.parametrize("n", [1, 700, 15_000, 37_000])
def test_every_network_and_every_length_has_a_page_and_a_picture(
    tmp_path: Path, attention: bool, genders: list[str] | None, n: int
):
    c = dataclasses.replace(SMALL, attention=attention, level=attention, statistics=attention, d_spec=297 if attention else 384)
    found = look_at(tmp_path, sound(n), c, genders)
    assert found.bands.shape[1] == c.d_spec // 3
    text = page(found)
    answered = n >= 15_000
    assert ("attention of each head" in text) == ("regression on statistics" in text) == (attention and answered)
    assert ("female" in text) == (genders is not None and answered)
    assert ("does not tell voices apart" in text) == (genders is None)
    assert ("All 4 windows" in text) == (n == 37_000)
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    from npser.explain.picture import picture

    assert picture(found, "png").startswith(b"\x89PNG")


# The page


class Outside(html.parser.HTMLParser):
    """Collects what a page would fetch, and its elements."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.elements: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "poster", "data")]


def test_the_page_fetches_nothing(tmp_path: Path):
    text = page(look_at(tmp_path, sound(37_000)))
    outside = Outside()
    outside.feed(text)
    assert len(outside.fetched) == 3  # the sound, the bands and the weights
    assert all(value.startswith("data:") for value in outside.fetched)
    assert not re.search(r"@import|url\(", text)
    assert "link" not in outside.elements
    assert "{{" not in text


def test_names_and_labels_are_text_wherever_they_stand(tmp_path: Path):
    trained = network(tmp_path)
    evil = '</script><b>"&{{name}} $\\nonsense$'
    trained.lite.checkpoint.labels["emotion"] = [evil, "happy", "neutral", "sad"]

    about = dataclasses.replace(trained.lite.checkpoint, training={"notices": [evil], "corpora": [evil], "licence": evil})
    about.tensors["emotion.b"][0] += 100  # it is the answer
    checkpoint.save(trained.path, about)
    path = recording(tmp_path / "<b>$x$ {{tracks}} & 'ä'.wav", sound(37_000))
    found = look(path, trained.path)
    assert found.prediction.emotion == evil
    text = page(found)
    outside = Outside()
    outside.feed(text)
    plain = Outside()
    plain.feed(page(look_at(tmp_path, sound(37_000))))
    assert outside.elements.count("script") == plain.elements.count("script") == 2
    assert outside.elements.count("b") == plain.elements.count("b")
    assert text.count("&lt;b&gt;$x$ {{tracks}} &amp; &#x27;ä&#x27;.wav") == 2
    answers = re.search(r'<script type="application/json" id="answers">(.*?)</script>', text)
    assert answers is not None
    assert json.loads(answers[1])[0] == [0.0, f"{evil}, over 99%"]
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    from npser.explain.picture import picture

    assert picture(found, "svg").startswith(b"<?xml")


def test_the_player_holds_the_recording(tmp_path: Path):
    rng = np.random.default_rng(0)
    stereo = (0.2 * rng.standard_normal((30_000, 2))).clip(-1, 1)
    soundfile.write(tmp_path / "b.wav", stereo, 44_100, subtype="PCM_16")
    text = page(look(tmp_path / "b.wav", network(tmp_path).path))
    data = re.search(r'data:audio/flac;base64,([^"]+)"', text)
    assert data is not None
    x, rate = soundfile.read(io.BytesIO(base64.b64decode(data[1])))
    assert rate == 44_100
    np.testing.assert_allclose(x, stereo.mean(axis=1), atol=1e-4)


def test_a_rate_that_flac_has_no_digits_for_is_embedded_too(tmp_path: Path):
    soundfile.write(tmp_path / "c.wav", sound(60_000), 96_001)
    found = look(tmp_path / "c.wav", network(tmp_path).path)
    assert found.sound is not None
    assert soundfile.read(io.BytesIO(found.sound))[1] == 96_000


def test_more_labels_than_colours_have_colours(tmp_path: Path):
    trained = network(tmp_path)
    found = look(recording(tmp_path / "a.wav", sound(20_000)), trained.path)
    found.model.emotions = [*COLOURS, "contempt"]
    assert set(found.colours) == {*COLOURS, "contempt"}


def test_the_picture_of_the_bands_is_upright(tmp_path: Path):
    t = np.arange(16_000) / 16_000
    found = look_at(tmp_path, (0.3 * np.sin(2 * np.pi * 2000 * t)).astype(np.float32))
    data = re.search(r'log-mel spectrogram" style="[^"]*" src="data:image/png;base64,([^"]+)"', page(found))
    assert data is not None
    shades = decoded(base64.b64decode(data[1]))
    assert shades.shape == (128, 41)
    row = shades[:, 20].argmax()
    assert 1 - (row + 0.5) / 128 == pytest.approx(frequencies(128)["2"], abs=0.02)


def test_a_frequency_lies_in_the_middle_of_the_band_that_hears_it():
    for name, hertz in (("0.5 kHz", 500), ("1", 1000), ("4", 4000)):
        loudest = features.log_mel(np.sin(2 * np.pi * hertz * np.arange(16_000) / 16_000).astype(np.float32))[20].argmax()
        assert frequencies(128)[name] == pytest.approx((loudest + 0.5) / 128, abs=0.5 / 128 / 2)


def test_the_likeliest_label_comes_first(tmp_path: Path):
    found = look_at(tmp_path, sound(15_000))
    names = re.findall(r'<div class="bar"><span class="name">(\w+)</span>', page(found))
    p = found.prediction
    assert p.gender_probabilities is not None
    assert names == [
        name for given in (p.probabilities, p.gender_probabilities) for name in sorted(given, key=lambda name: -given[name])
    ]


def test_even_attention_is_no_dark_shade(tmp_path: Path):
    found = look_at(tmp_path, sound(15_000))
    assert top_weight(dataclasses.replace(found, weights=np.ones((38, 2)))) == 2
    assert top_weight(dataclasses.replace(found, weights=np.full((38, 2), 7.0))) == 7


def test_in_the_picture_the_answers_of_a_window_are_stacked_to_one(tmp_path: Path):
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from npser.explain.picture import _answers

    axis: Any = Figure().subplots()
    found = look_at(tmp_path, np.concatenate([np.zeros(16_000, np.float32), sound(37_000)]))
    _answers(axis, found)
    bars = sorted(
        (bar.get_x(), bar.get_y(), bar.get_y() + bar.get_height(), bar.get_width())
        for bar in axis.patches
        if isinstance(bar, Rectangle)
    )
    for k, (start, end) in enumerate(found.segments):
        of_window = bars[4 * k : 4 * k + 4]
        assert all(bar[0] == pytest.approx(start) and bar[3] == pytest.approx(end - start) for bar in of_window)
        answered = found.prediction.timeline[k].emotion is not None
        assert max(top for _, _, top, _ in of_window) == pytest.approx(1 if answered else 0)
        assert sum(top - low for _, low, top, _ in of_window) == pytest.approx(1 if answered else 0)


def test_a_png_holds_the_values():
    values = np.linspace(-0.5, 1.5, 35).reshape(5, 7)
    np.testing.assert_array_equal(decoded(png(values, ("#000000", "#ffffff"))), (255 * values.clip(0, 1)).round())


def test_moments_are_written_as_people_write_them():
    assert [clock(0), clock(61), clock(3723.4), clock(59.96, 1), clock(3.25, 1)] == [
        "0:00",
        "1:01",
        "1:02:03",
        "1:00.0",
        "0:03.2",
    ]
    assert list(ticks(1.9).values())[:3] == ["0 s", "0.5 s", "1 s"]
    assert list(ticks(3600).values()) == ["0:00", *(f"{k}:00" for k in range(10, 60, 10)), "1:00:00"]
    assert all(2 <= len(ticks(seconds)) <= 10 for seconds in (0.3, 7.5, 59, 601, 86_400))


# The command


def test_the_command_writes_what_the_name_asks_for(npser: Command, trained: Path, corpus: Path, tmp_path: Path):
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    words = ("explain", corpus / "1f_angry_0.wav", "--model", trained / "model.safetensors", "--out")
    assert npser(*words, "a.html").stdout == "a.html\n"
    assert (tmp_path / "a.html").read_text().startswith("<!doctype html>")
    shown = json.loads(npser(*words, "a.PNG", "--json").stdout)
    assert (tmp_path / "a.PNG").read_bytes().startswith(b"\x89PNG")
    assert shown["out"] == "a.PNG"
    assert f'class="verdict">{shown["emotion"]}<' in (tmp_path / "a.html").read_text()


def test_the_same_recording_gives_the_same_bytes(tmp_path: Path):
    found = look_at(tmp_path, sound(37_000))
    assert page(found) == page(look_at(tmp_path, sound(37_000)))
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    from npser.explain.picture import picture

    for kind, start in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        assert picture(found, kind).startswith(start)
        assert picture(found, kind) == picture(found, kind)


def test_what_cannot_be_shown_is_told_in_a_sentence(npser: Command, trained: Path, corpus: Path, tmp_path: Path):
    wav, model = corpus / "1f_angry_0.wav", trained / "model.safetensors"
    one_sentence(npser("explain", wav, "--model", model, "--out", "a.jpg", status=1), "a.jpg", ".html", ".png")
    one_sentence(
        npser("explain", wav, "--model", model, "--out", "nowhere/a.html", status=1), "--out nowhere/a.html", "no folder"
    )
    one_sentence(npser("explain", "none.wav", "--model", model, "--out", "a.html", status=1), "none.wav")
    (tmp_path / "bad.wav").write_text("no sound")
    one_sentence(npser("explain", "bad.wav", "--model", model, "--out", "a.html", status=1), "bad.wav")
    assert not (tmp_path / "a.html").exists()


def test_the_page_needs_no_matplotlib_and_a_picture_says_so(
    npser: Command, trained: Path, corpus: Path, environment: dict[str, str], tmp_path: Path
):
    (tmp_path / "hidden").mkdir()
    for name in ("matplotlib", "numba", "npser_kernels"):
        (tmp_path / "hidden" / f"{name}.py").write_text("raise ImportError('not installed')")
    without = environment | {"PYTHONPATH": os.pathsep.join([str(tmp_path / "hidden"), environment["PYTHONPATH"]])}
    words = ("explain", corpus / "1f_angry_0.wav", "--model", trained / "model.safetensors", "--out")
    npser(*words, "a.html", env=without)
    one_sentence(npser(*words, "a.png", status=1, env=without), "pip install matplotlib", ".html")


# A browser


LISTEN = """<script>
window.problems = [];
addEventListener("error", (event) => problems.push(event.message || event.target.tagName), true);
addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective + " " + event.blockedURI));
</script>"""
PROBE = """<script>
(async () => {
  const found = {};
  const until = async (done) => { for (let k = 0; k < 200 && !done(); k++) await new Promise((next) => setTimeout(next, 50)); };
  const box = (element) => { const r = element.getBoundingClientRect(); return [r.left, r.right, r.top, r.bottom]; };
  const point = (share) => {
    const [left, right, top] = box(time);
    const at = { clientX: left + share * (right - left), clientY: top + 5, buttons: 1, bubbles: true, pointerId: 1 };
    time.setPointerCapture = () => {};
    time.dispatchEvent(new PointerEvent("pointerdown", at));
  };
  const headAt = () => (box(head)[0] + 1 - box(time)[0]) / time.clientWidth;
  found.asksForFile = getComputedStyle(byId("choose")).display != "none";
  if (found.asksForFile) {
    point(0.5);
    found.withoutSound = headAt();
    const bytes = Uint8Array.from(atob(window.recording), (c) => c.charCodeAt(0)), files = new DataTransfer();
    files.items.add(new File([bytes], "a.wav", { type: "audio/wav" }));
    byId("file").files = files.files;
    byId("file").dispatchEvent(new Event("change"));
  }
  await until(() => player.readyState == 4);
  found.duration = player.duration;
  found.tracks = [...time.querySelectorAll(".track")].map((track) => box(track));
  found.time = box(time);
  found.images = [...document.images].map((image) => [image.naturalWidth, image.naturalHeight, ...box(image).slice(0, 2)]);
  point(0.75);
  await until(() => !player.seeking);
  found.sought = [player.currentTime / player.duration, headAt()];
  found.said = byId("moment").textContent;
  player.currentTime = 0;
  player.muted = true;
  await player.play();
  await until(() => player.currentTime > 0.05);
  player.pause();
  await until(() => Math.abs(headAt() - player.currentTime / player.duration) < 1e-3);
  found.played = [player.currentTime / player.duration, headAt()];
  byId("zoom").value = 4;
  byId("zoom").dispatchEvent(new Event("input"));
  found.zoomed = [time.clientWidth / scroll.clientWidth, headAt()];
  found.fetched = performance.getEntriesByType("resource").map((entry) => entry.name.slice(0, 5));
  found.problems = window.problems;
  document.documentElement.dataset.found = btoa(unescape(encodeURIComponent(JSON.stringify(found))));
})();
</script>"""


def opened(chromium: Callable[..., Any], folder: Path, text: str, recording: Path) -> dict[str, Any]:
    """What a browser finds when a page is used: listens for errors, clicks, plays, zooms."""
    sound = base64.b64encode(recording.read_bytes()).decode()
    probe = f"<script>window.recording = '{sound}'</script>{PROBE}"
    path = folder / "probed.html"
    path.write_text(text.replace("<head>", f"<head>{LISTEN}", 1).replace("</body>", f"{probe}</body>"))
    browser = chromium("--autoplay-policy=no-user-gesture-required")
    with browser.new_context(viewport={"width": 1280, "height": 1200}) as context:
        tab = context.new_page()
        tab.goto(path.as_uri())
        tab.wait_for_selector("html[data-found]", state="attached", timeout=120_000)
        data = tab.get_attribute("html", "data-found")
    return json.loads(base64.b64decode(data))


@pytest.mark.parametrize("embedded", [True, False])
def test_a_browser_shows_it_plays_it_and_finds_nothing_wrong(
    chromium: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: bool
):
    if not embedded:
        monkeypatch.setattr("npser.explain.look.EMBEDDED", 1000)
    x = np.r_[sound(20_000), np.zeros(40_000, np.float32), sound(20_000, 1)]
    path = tmp_path / "a.wav"
    soundfile.write(path, x, 16_000, subtype="PCM_16")
    looked = look(path, network(tmp_path).path)
    found = opened(chromium, tmp_path, page(looked), path)
    assert found["problems"] == []
    assert set(found["fetched"]) <= {"data:", "blob:"}
    assert found["asksForFile"] is not embedded
    assert embedded or found["withoutSound"] == pytest.approx(0.5, abs=0.005)
    assert found["duration"] == pytest.approx(5.0, abs=0.01)

    left, right = found["time"][:2]
    assert right - left > 900
    assert len(found["tracks"]) == 5
    assert all(track[:2] == [left, right] for track in found["tracks"])  # one time axis
    assert all(above[3] <= below[2] for above, below in itertools.pairwise(found["tracks"]))
    assert [image[:2] for image in found["images"]] == [[201, 128], [201, 2]]
    for _, _, start, end in found["images"]:
        assert start == pytest.approx(left + looked.span[0] / 5 * (right - left), abs=1)
        assert end == pytest.approx(left + looked.span[1] / 5 * (right - left), abs=1)

    assert found["sought"] == pytest.approx([0.75, 0.75], abs=0.005)
    window = next(w for w, (_, end) in zip(looked.prediction.timeline, looked.segments, strict=True) if end > 3.75)
    assert found["said"].startswith("0:03.8  " if window.emotion is None else f"0:03.8  {window.emotion}")
    assert 0.01 < found["played"][0] < 0.9
    assert found["played"][1] == pytest.approx(found["played"][0], abs=1e-3)
    assert found["zoomed"] == pytest.approx([4, found["played"][1]], abs=0.01)


def test_a_recording_without_speech_is_shown_as_it_is(tmp_path: Path):
    path = network(tmp_path, dataclasses.replace(SMALL, level=True, speech=True)).path
    for name, x in {"silence": np.zeros(20_000), "short": sound(1_600), "steady": np.full(9_000, 0.1)}.items():
        found = look(recording(tmp_path / f"{name}.wav", x), path)
        assert (found.prediction.emotion, found.weights) == (None, None)
        assert found.bands.shape[0] == len(x) // 400 + 1
    speech = np.concatenate([np.zeros(16_000), sound(24_000, 1), np.zeros(16_000)])
    found = look(recording(tmp_path / "speech.wav", speech), path)
    shown = np.flatnonzero(found.bands.max(axis=1) > features.FLOOR_DB)
    assert 38 <= shown[0] <= 45  # what is not heard has no spectrum
    assert 90 <= shown[-1] <= 122
    assert found.weights is not None
    assert np.isnan(found.weights[:30]).all()
