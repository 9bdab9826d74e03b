"""The page as a person uses it: in Chromium, from the disk, with files and with a microphone that plays one."""

import base64
import contextlib
import csv
import dataclasses
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from helpers import RATE, ROOT, Array, Trained, network
from serving import Server
from test_page import assert_same_events
from test_stream import HEARING, talk

from npser.live import page
from npser.live.stream import listen

expect = pytest.importorskip("playwright.sync_api", reason="needs the package playwright").expect

FAKE = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
Opened = Callable[..., contextlib.AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def hearing(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    lower = dataclasses.replace(HEARING, d_spec=297)  # the bands up to 4 kHz, as the default preset has them
    return network(tmp_path_factory.mktemp("model"), lower, temperature=1.3)


@pytest.fixture(scope="module")
def page_file(hearing: Trained) -> Path:
    path = hearing.path.with_name("page.html")
    path.write_text(page.page(hearing.path), encoding="utf-8")
    return path


@pytest.fixture
def opened(chromium: Callable[..., Any], page_file: Path) -> Opened:
    """Opens the page from the disk. At the end, it has asked for nothing, and said nothing on the console."""

    @contextlib.contextmanager
    def opened(*words: str, script: str = "", **options: Any) -> Iterator[Any]:
        context = chromium(*words).new_context(**options)
        tab, wrong = context.new_page(), []
        tab.on("console", lambda message: wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda request: wrong.append(request.url) if not request.url.startswith(("blob:", "file:")) else None)
        if script:
            tab.add_init_script(script)
        tab.goto(page_file.as_uri())
        yield tab
        assert not [text for text in wrong if not text.startswith("data:text/javascript")]
        context.close()

    return opened


def saved(tab: Any, button: str) -> bytes:
    with tab.expect_download() as download:
        tab.click(button)
    return Path(download.value.path()).read_bytes()


def until(true: Callable[[], bool], seconds: float = 20) -> None:
    """Wait; the page's policy forbids playwright's own way."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def answered(tab: Any) -> None:
    expect(tab.locator("#verdict-more")).to_contain_text("the whole recording", timeout=20_000)


def test_a_chosen_recording_is_answered_as_python_answers_it(opened: Opened, hearing: Trained, tmp_path: Path):
    path = tmp_path / "a, b.wav"
    soundfile.write(path, talk([2.3, 0.4, 3.1]), RATE, subtype="PCM_16")
    with opened() as tab:
        tab.set_input_files("#files", path)
        answered(tab)
        found = json.loads(saved(tab, "#json"))
        rows = list(csv.DictReader(io.StringIO(saved(tab, "#csv").decode())))
        expect(tab.locator("#rows tr")).to_have_count(len(rows))
        expect(tab.locator("#look")).to_be_visible()
        expect(tab.locator("#said")).to_contain_text("%")
    p = hearing.lite.predict(path)
    *events, whole = found["events"]
    assert_same_events(events, list(listen(hearing.lite, [soundfile.read(path, dtype="float32")[0]], RATE, 0.5)))
    assert (whole["emotion"], found["source"]) == (p.emotion, "a, b.wav")
    assert whole["probabilities"] == pytest.approx(p.probabilities, abs=1e-4)
    assert {name: float(rows[-1][f"p_{name}"]) for name in p.probabilities} == pytest.approx(p.probabilities, abs=1e-4)
    assert {row["path"] for row in rows} == {"a, b.wav"}


def test_a_long_recording_is_answered_alike_by_several_workers(opened: Opened, hearing: Trained, tmp_path: Path):
    path = tmp_path / "long.wav"
    x = talk([0.5 + k % 5 for k in range(24)], pause=0.8)
    assert len(x) > 75 * RATE
    soundfile.write(path, x, RATE, subtype="PCM_16")
    with opened() as tab:
        tab.set_input_files("#files", path)
        answered(tab)
        *events, whole = json.loads(saved(tab, "#json"))["events"]
    assert_same_events(events, list(listen(hearing.lite, [soundfile.read(path, dtype="float32")[0]], RATE, 0.5)))
    assert whole["probabilities"] == pytest.approx(hearing.lite.predict(path).probabilities, abs=1e-4)


def test_a_recording_can_be_given_up(opened: Opened, tmp_path: Path):
    soundfile.write(tmp_path / "long.wav", np.tile(talk([2.0]), 400), RATE, subtype="PCM_16")
    with opened() as tab:
        tab.set_input_files("#files", tmp_path / "long.wav")
        expect(tab.locator("#progress-text")).to_contain_text("heard")
        tab.click("#cancel")
        expect(tab.locator("#progress")).to_be_hidden()
        expect(tab.locator("#problem")).to_be_hidden()


DROP = """([names, text]) => {
  const data = new DataTransfer();
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  for (const name of names) data.items.add(new File([bytes], name));
  const event = names.length > 1 ? new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true})
    : new ClipboardEvent("paste", {clipboardData: data, bubbles: true});
  document.body.dispatchEvent(event);
}"""


def test_recordings_can_be_dropped_and_pasted_in_other_forms_too(opened: Opened, hearing: Trained, tmp_path: Path):
    path = tmp_path / "a.flac"
    soundfile.write(path, talk([2.3]), RATE)
    text = base64.b64encode(path.read_bytes()).decode()
    with opened() as tab:
        tab.evaluate(DROP, [["a.flac", "b.flac"], text])
        until(lambda: tab.locator("#session option").count() == 2)
        answered(tab)
        tab.evaluate(DROP, [["c.flac"], text])
        until(lambda: tab.locator("#session option").count() == 3)
        answered(tab)
        expect(tab.locator("#progress")).to_be_hidden()
        (*_, whole) = json.loads(saved(tab, "#json"))["events"]
    assert whole["probabilities"] == pytest.approx(hearing.lite.predict(path).probabilities, abs=1e-3)


def test_what_cannot_be_read_is_told_in_words(opened: Opened, tmp_path: Path):
    cases = {
        "notes.txt": (b"hello", "cannot decode it"),
        "empty.wav": (b"", "it is empty"),
        "r.wav": (b"RIFF\0\0\0\0WAVE", "ends before"),
    }
    with opened() as tab:
        for name, (content, words) in cases.items():
            (tmp_path / name).write_bytes(content)
            tab.set_input_files("#files", tmp_path / name)
            expect(tab.locator("#problem")).to_contain_text(words)
            assert name in tab.inner_text("#problem")
        soundfile.write(tmp_path / "good.wav", talk([1.0]), RATE)
        tab.set_input_files("#files", tmp_path / "good.wav")
        answered(tab)
        expect(tab.locator("#problem")).to_be_hidden()


def spoken(folder: Path, x: Array) -> str:
    """The word that makes Chromium's fake microphone play a sound, once."""
    soundfile.write(folder / "spoken.wav", x, RATE, subtype="PCM_16")
    return f"--use-file-for-fake-audio-capture={folder / 'spoken.wav'}%noloop"


def test_a_microphone_is_answered_as_pythons_stream_answers_the_sound(opened: Opened, hearing: Trained, tmp_path: Path):
    x = talk([2.5], pause=1.5)
    with opened(*FAKE, spoken(tmp_path, x), viewport={"width": 1100, "height": 900}) as tab:
        tab.click("#settings summary")
        tab.check("#keep")
        tab.click("h1")  # off the tick box, which has a use for the key
        tab.keyboard.press("Space")
        expect(tab.locator("#start")).to_have_text("Stop")
        expect(tab.locator("#truth")).to_contain_text("echo cancelling off; noise suppression off; gain control off")
        expect(tab.locator("#verdict-more")).to_contain_text("what was said", timeout=20_000)
        assert float(tab.get_attribute("#meter", "aria-valuenow") or 0) >= -60
        tab.click("#start")
        expect(tab.locator("#state")).to_have_text("Stopped.")
        found = json.loads(saved(tab, "#json"))
        kept = saved(tab, "#wav")
        tab.click("#clear")
        expect(tab.locator("#verdict")).to_have_text("\N{EN DASH}")
    said = [event for event in found["events"] if event["event"] == "utterance"]
    wanted = [event for event in listen(hearing.lite, [x], RATE) if event.kind == "utterance"]
    assert len(said) == len(wanted) == 1  # loosely from here on: the browser has resampled what is heard
    assert said[0]["emotion"] == wanted[0].emotion
    assert said[0]["probabilities"] == pytest.approx(wanted[0].probabilities, abs=0.1)
    assert said[0]["end"] - said[0]["start"] == pytest.approx(wanted[0].end - wanted[0].start, abs=0.3)
    assert found["microphone"]["echoCancellation"] is False
    y, rate = soundfile.read(io.BytesIO(kept))
    assert rate == RATE
    assert len(y) / RATE == pytest.approx(found["seconds"], abs=0.3)
    assert np.abs(y).max() > 0.1


def test_pausing_stops_the_clock_and_a_silent_microphone_is_told(opened: Opened, tmp_path: Path):
    with opened(*FAKE, spoken(tmp_path, np.zeros(RATE, np.float32))) as tab:
        tab.click("#start")
        expect(tab.locator("#silent")).to_be_visible(timeout=9000)
        tab.click("#pause")
        expect(tab.locator("#state")).to_contain_text("Paused")
        tab.click("#pause")
        expect(tab.locator("#silent")).to_be_hidden()
        expect(tab.locator("#state")).to_contain_text("Listening, 0:0")
        tab.click("#start")
        expect(tab.locator("#state")).to_have_text("Stopped.")
        expect(tab.locator("#start")).to_have_text("Start listening")


def test_a_refusal_of_the_microphone_is_told_in_words(opened: Opened):
    with opened("--use-fake-device-for-media-stream") as tab:  # nobody gave the permission
        tab.click("#start")
        expect(tab.locator("#problem")).to_contain_text("Allow it beside the address")
        expect(tab.locator("#start")).to_have_text("Start listening")


REFUSES = 'navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException("", "{}"));'


@pytest.mark.parametrize(
    ("name", "words"),
    [("NotFoundError", "no microphone"), ("NotReadableError", "Another program"), ("OddError", "does not work here")],
)
def test_no_device_a_busy_one_and_what_nobody_knows_are_told_in_words(opened: Opened, name: str, words: str):
    with opened(script=REFUSES.format(name)) as tab:
        tab.click("#start")
        expect(tab.locator("#problem")).to_contain_text(words)
        expect(tab.locator("#start")).to_have_text("Start listening")


def test_a_browser_that_never_answers_is_waited_for_and_can_be_given_up(opened: Opened):
    with opened(script="navigator.mediaDevices.getUserMedia = () => new Promise(() => {});") as tab:
        tab.clock.install()
        tab.click("#start")
        expect(tab.locator("#state")).to_contain_text("Allow the microphone")
        tab.clock.fast_forward(11_000)
        expect(tab.locator("#state")).to_contain_text("has not answered yet")
        tab.click("#start")
        expect(tab.locator("#start")).to_have_text("Start listening")


UNPLUG = """
const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = async (wanted) => (window.heard = await ask(wanted));
"""


def test_a_muted_microphone_is_told_and_an_unplugged_one_ends_the_session(opened: Opened):
    with opened(*FAKE, script=UNPLUG) as tab:
        tab.click("#start")
        expect(tab.locator("#state")).to_contain_text("Listening, 0:")
        tab.evaluate("heard.getTracks()[0].dispatchEvent(new Event('mute'))")
        expect(tab.locator("#state")).to_contain_text("muted")
        tab.evaluate("heard.getTracks()[0].dispatchEvent(new Event('unmute'))")
        expect(tab.locator("#state")).not_to_contain_text("muted")
        tab.evaluate("heard.getTracks()[0].dispatchEvent(new Event('ended'))")
        expect(tab.locator("#problem")).to_contain_text("unplugged")
        expect(tab.locator("#start")).to_have_text("Start listening")
        assert tab.evaluate("heard.getTracks()[0].readyState") == "ended"


HIDE = """(hidden) => {
  Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
  document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_that_the_tab_was_hidden_is_told(opened: Opened):
    with opened(*FAKE) as tab:
        tab.click("#start")
        expect(tab.locator("#state")).to_contain_text("Listening, 0:")
        tab.evaluate(HIDE, True)
        tab.evaluate(HIDE, False)
        expect(tab.locator("#state")).to_contain_text("hidden for 0 s; listening went on")


def test_the_choice_of_a_microphone_is_remembered_and_it_can_be_changed_meanwhile(opened: Opened):
    with opened(*FAKE) as tab:
        tab.click("#start")
        expect(tab.locator("#state")).to_contain_text("Listening, 0:")
        tab.click("#settings summary")
        until(lambda: tab.locator("#device option").count() > 1)
        device = tab.locator("#device option").nth(1).get_attribute("value")
        tab.select_option("#device", device)
        tab.check("#echoCancellation")
        expect(tab.locator("#truth")).to_contain_text("echo cancelling on")
        tab.click("#start")
        expect(tab.locator("#state")).to_have_text("Stopped.")
        tab.reload()
        until(lambda: tab.locator("#device").input_value() == device)


def test_an_insecure_page_says_why_it_cannot_listen(chromium: Callable[..., Any], page_file: Path):
    context = chromium().new_context()
    tab = context.new_page()
    tab.route("http://page.test/", lambda route: route.fulfill(body=page_file.read_text(), content_type="text/html"))
    tab.goto("http://page.test/")
    expect(tab.locator("#problem")).to_contain_text("only to pages from https")
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1180, 360])
def test_it_can_be_used_by_all(opened: Opened, tmp_path: Path, scheme: str, width: int):
    """No violation in axe-core, nothing is cut off."""
    Axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe
    soundfile.write(tmp_path / "a.wav", talk([1.3]), RATE)
    with opened(color_scheme=scheme, viewport={"width": width, "height": 800}, reduced_motion="reduce") as tab:
        for _ in range(2):  # as it opens, and with an answer
            found = Axe().run(tab).response["violations"]
            assert not [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            tab.click("#settings summary")
            tab.set_input_files("#files", tmp_path / "a.wav")
            answered(tab)
            expect(tab.locator("#rows tr").first).to_be_visible()


# With the server


@pytest.fixture
def client(chromium: Callable[..., Any]) -> Iterator[Any]:
    """A tab, for pages of the server."""
    with contextlib.closing(chromium().new_context(bypass_csp=True)) as context:
        yield context.new_page()


def begin(tab: Any, server: Server) -> None:
    """Open the server's page, and a session of examples/session.js in it."""
    tab.goto(server.address)
    expect(tab.locator("#start")).to_be_visible()
    source = (ROOT / "examples" / "session.js").read_text(encoding="utf-8").replace("export ", "")
    made = "heard = []; session = new Session(url, 16000, (message) => heard.push(message)); take = (base64) => {"
    made += "session.send(new Float32Array(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer)); }"
    tab.evaluate(f"(url) => {{ {source}; globalThis.Session = Session; {made} }}", f"ws{server.address[4:]}v1/stream")


def send(tab: Any, x: Array) -> None:
    for block in np.array_split(x, max(1, len(x) // 1600)):
        tab.evaluate("(base64) => take(base64)", base64.b64encode(block.astype("<f4").tobytes()).decode())


def heard(tab: Any, *kinds: str) -> list[dict[str, Any]]:
    return [message for message in tab.evaluate("heard") if message["type"] in kinds]


def test_a_session_of_the_servers_page_outlives_its_connection(
    client: Any, environment: dict[str, str], hearing: Trained, tmp_path: Path
):
    x, cut, back = talk([1.5, 2.0, 1.0]), round(4.9 * RATE), round(5.7 * RATE)
    words = ["--ahead-seconds", "99"]
    server = Server(environment, tmp_path / "1", hearing.path, *words)
    begin(client, server)
    send(client, x[:cut])
    until(lambda: any(m["computed"] > 4.8 for m in heard(client, "progress")))
    server.process.kill()
    server.process.communicate()
    send(client, x[cut:back])
    with Server(environment, tmp_path / "2", hearing.path, *words, "--port", str(server.port)):
        until(lambda: client.evaluate("session.open"))
        send(client, x[back:])
        assert client.evaluate("session.end()") == 1000
    assert heard(client, "lost") == []
    expected = list(listen(hearing.lite, [x], RATE))
    starts, ends = ([m[name] for m in heard(client, f"speech.{name}")] for name in ("start", "end"))
    assert starts == pytest.approx([event.start for event in expected if event.kind == "speech"], abs=0.1)
    told = heard(client, "measurement")
    finals = [m for m in told if m["final"]]
    assert ends == pytest.approx([m["end"] for m in finals], abs=0.001)
    for one, event in zip(finals, [event for event in expected if event.kind == "utterance"], strict=True):
        assert (one["start"], one["end"]) == pytest.approx((event.start, event.end), abs=0.1)
        assert one["probabilities"] == pytest.approx(event.probabilities, abs=0.05)
    between = [m["end"] for m in told if not m["final"]]
    assert between == sorted(set(between))
    assert len(between) == pytest.approx(sum(event.kind == "answer" for event in expected), abs=1)


def test_what_a_lost_connection_has_lost_is_told(client: Any, environment: dict[str, str], hearing: Trained, tmp_path: Path):
    x, cut = talk([2.0] * 5), round(5 * RATE)
    server = Server(environment, tmp_path / "1", hearing.path, "--ahead-seconds", "99")
    begin(client, server)
    send(client, x[:cut])
    until(lambda: any(m["computed"] > 4.9 for m in heard(client, "progress")))
    server.process.kill()
    server.process.communicate()
    send(client, x[cut:])
    with Server(environment, tmp_path / "2", hearing.path, "--port", str(server.port)):  # as strict as it comes
        assert client.evaluate("session.end()") == 1000
    (lost,) = heard(client, "lost")
    assert lost["end"] == pytest.approx(len(x) / RATE - 4.5, abs=0.001)
    before = [m["end"] for m in heard(client, "measurement") if m["end"] <= 5]
    assert lost["start"] == pytest.approx(max(before), abs=0.001)
    starts, ends = ([m[name] for m in heard(client, f"speech.{name}")] for name in ("start", "end"))
    assert len(starts) == len(ends)
    assert sum(m["final"] for m in heard(client, "measurement") if m["end"] > lost["end"]) == 2
