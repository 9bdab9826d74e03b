"""The server, as a user starts it: it says what `npser predict` and a stream say, to the last bit, as its documents say it."""

import asyncio
import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
from helpers import RATE, ROOT, SMALL, Command, children, network, noise, one_sentence, recording, sound, talk, without
from serving import CHECKS, Server, heard, run, session
from tornado.httpclient import HTTPClientError

from npser.lite import Model
from npser.live.limits import FIELDS, Settings, flag_of, settings_of
from npser.live.measures import ROW, Measures
from npser.live.state import State
from npser.live.stream import listen
from npser.networks import li2019

EXAMPLES = ROOT / "examples"
QUICK = ("--ahead-seconds", "1000", "--message-rate", "100000")  # a test does not wait for its sound


@pytest.fixture(scope="module")
def server(environment: dict[str, str], folder: Path, path: Path) -> Iterator[Server]:
    with Server(environment, folder, path, *QUICK) as found:
        yield found


@pytest.fixture(scope="module")
def audio(folder: Path) -> Path:
    return recording(folder / "a.wav", talk([2.3, 0.9], pause=0.6))


# Files


@pytest.mark.parametrize(("rate", "form"), [(RATE, "wav"), (44_100, "flac"), (8000, "wav"), (24_000, "ogg")])
def test_a_file_is_answered_as_predict_does(
    server: Server, npser: Command, path: Path, tmp_path: Path, rate: int, form: str
) -> None:
    file = tmp_path / f"a.{form}"
    soundfile.write(file, sound(3 * rate, 2, rate), rate)
    expected = [
        json.loads(line) for line in npser("predict", file, "--model", path, "--json", "--timeline").stdout.splitlines()
    ]
    found = server.ask("/v1/predict?timeline", file.read_bytes())
    assert found.status == 200
    assert found.headers["content-type"] == "application/json"
    CHECKS["Recording"].validate(found.json)
    row, *windows = ({name: value for name, value in one.items() if name != "path"} for one in expected)
    assert found.json == {"path": "-", **row, "timeline": windows}
    assert server.ask("/v1/predict", file.read_bytes()).json == {"path": "-", **row}


def test_windows_come_in_lines_and_the_recording_last(server: Server, path: Path, audio: Path) -> None:
    found = server.ask("/v1/predict", audio.read_bytes(), Accept="text/html;q=0.2, application/x-ndjson")
    assert found.headers["content-type"] == "application/x-ndjson"
    *lines, last = [json.loads(line) for line in found.body.splitlines()]
    for line in lines:
        CHECKS["Line"].validate(line)
    CHECKS["Recording"].validate(last)
    whole = server.ask("/v1/predict?timeline=true", audio.read_bytes()).json
    assert [{k: v for k, v in line.items() if k != "path"} for line in lines] == whole.pop("timeline")
    assert last == whole
    assert len(lines) == len(Model(path).predict(audio).timeline) > 3


def test_a_table_is_what_predict_prints(server: Server, npser: Command, path: Path, audio: Path) -> None:
    for query, flags in (("", []), ("?timeline=1&min_confidence=0.3", ["--timeline", "--min-confidence", "0.3"])):
        found = server.ask(f"/v1/predict{query}", audio.read_bytes(), Accept="text/csv")
        printed = npser("predict", audio, "--model", path, "--format", "csv", *flags).stdout
        assert found.body.decode() == printed.replace(str(audio), "-")


def test_confidence_silence_and_no_speech(server: Server, tmp_path: Path, audio: Path) -> None:
    unsure = server.ask("/v1/predict?min_confidence=0.99", audio.read_bytes()).json
    assert unsure["emotion"] is None
    assert re.fullmatch(r"confidence 0\.\d+ is below 0\.99", unsure["reason"])
    silent = server.ask("/v1/predict?timeline", recording(tmp_path / "b.wav", np.zeros(RATE, np.float32)).read_bytes())
    assert (silent.status, silent.json["emotion"], silent.json["reason"]) == (200, None, "no speech")
    CHECKS["Recording"].validate(silent.json)


def test_several_files_at_once_are_each_answered_as_alone(server: Server, path: Path, tmp_path: Path) -> None:
    files = [recording(tmp_path / f"{k}.wav", sound(4000 * (k + 2), k)) for k in range(12)]
    expected = [Model(path).predict(file).probabilities for file in files]

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(server.ask, "/v1/predict", file.read_bytes()) for file in files))

    assert [answer.json["probabilities"] for answer in run(all_of_them())] == expected


@pytest.mark.parametrize(
    ("query", "headers", "status", "code"),
    [
        ("?confidence=1", {}, 400, "query_unknown"),
        ("?min_confidence=2", {}, 400, "query_invalid"),
        ("?min_confidence=nan", {}, 400, "query_invalid"),
        ("?timeline=perhaps", {}, 400, "query_invalid"),
        ("", {"Accept": "text/html"}, 406, "accept_unknown"),
        ("", {"Accept": "application/json;q=a"}, 406, "accept_unknown"),
        ("", {"Content_Type": "multipart/form-data; boundary=x"}, 415, "form_unexpected"),
        ("", {"Content_Encoding": "gzip"}, 415, "encoding_unknown"),
    ],
)
def test_wrong_questions_are_refused(server: Server, query: str, headers: dict[str, str], status: int, code: str) -> None:
    server.ask(f"/v1/predict{query}", b"RIFF", **headers).refuses(status, code)


def test_what_is_no_recording_is_refused_with_its_reason(server: Server, audio: Path) -> None:
    server.ask("/v1/predict", b"").refuses(422, "audio_invalid")
    found = server.ask("/v1/predict", b"no sound at all")
    found.refuses(422, "audio_invalid")
    assert found.json["message"] == "the recording: is not an audio file that can be read; wav, flac, ogg and mp3 can"
    content = audio.read_bytes()
    server.ask("/v1/predict", content[:44] + np.full(RATE, np.nan, "<f4").tobytes()).refuses(422, "audio_invalid")
    assert server.ask("/v1/predict", content).status == 200


# What the server says of itself


def test_what_the_server_says_of_itself(server: Server, path: Path, npser: Command) -> None:
    assert server.ask("/healthz").json == {"status": "ok"}
    assert server.ask("/readyz").json == {"status": "ready"}
    card = server.ask("/v1/model").json
    CHECKS["Model"].validate(card)
    assert card["stream"] is True
    assert card["emotions"] == ["angry", "happy", "neutral", "sad"]
    assert card["limits"]["body_bytes"] == 64 << 20
    server.ask("/favicon.ico").refuses(404, "not_found")
    for route, method, allowed in (("/healthz", "DELETE", "GET"), ("/healthz", "TRACE", "GET"), ("/v1/predict", "GET", "POST")):
        found = server.ask(route, method=method)
        found.refuses(405, "method_unknown")
        assert found.headers["allow"] == allowed
    server.ask("/v1/model", b"a body").refuses(413, "body_unexpected")
    server.ask("/v1/stream").refuses(400, "upgrade_missing")
    page = server.ask("/")
    assert page.status == 200
    assert b"npser" in page.body


def test_no_header_tells_what_serves_and_all_are_strict(server: Server) -> None:
    for path in ("/", "/v1/model", "/nothing"):
        headers = server.ask(path).headers
        assert "server" not in headers
        assert "set-cookie" not in headers
        assert not any(name.startswith("access-control") for name in headers)
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


def test_the_documents_name_all_that_is_there(server: Server) -> None:
    http, live = server.ask("/openapi.json").json, server.ask("/asyncapi.json").json
    for schema in http["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for message in live["components"]["messages"].values():
        jsonschema.Draft202012Validator.check_schema(message.get("payload", {}))
    paths = {*http["paths"], *live["channels"]}
    assert paths == {"/", "/v1/predict", "/v1/model", "/v1/stream", "/healthz", "/readyz", "/metrics", *FILES}
    for path, methods in http["paths"].items():
        for method in methods:
            assert server.ask(path, b"x" if method == "post" else None).status in (200, 422), path


FILES = {"/openapi.json", "/asyncapi.json"}


def test_the_counts_add_up(server: Server, audio: Path) -> None:
    before = server.metrics()
    server.ask("/v1/predict", audio.read_bytes())
    server.ask("/v1/predict", b"?")
    after = server.metrics()

    def more(name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert more('requests_total{route="predict",code="200"}') == 1
    assert more('requests_total{route="predict",code="422"}') == 1
    assert more('requests_total{route="metrics",code="200"}') == 1
    assert more('audio_seconds_total{source="file"}') == pytest.approx(soundfile.info(audio).duration)
    assert after["inference_seconds_count"] == after['inference_seconds_bucket{le="+Inf"}']
    assert more("predict_seconds_count") == 2
    assert after["uploads"] == 0
    assert after["resident_memory_bytes"] > 1e7


def test_measures_of_several_workers_are_added_and_a_worker_that_comes_again_keeps_its_counts() -> None:
    numbers = [0.0] * (3 * ROW)
    for k in range(3):
        Measures(numbers, k).add("sessions_opened_total", k + 1)
        Measures(numbers, k).set("sessions", 1)
    again = Measures(numbers, 1)
    assert again.total("sessions_opened_total") == 6
    assert again.total("sessions") == 2
    again.observe("lag_seconds", 1e9)
    assert 'npser_lag_seconds_bucket{le="10"} 0' in again.text()
    assert 'npser_lag_seconds_bucket{le="+Inf"} 1' in again.text()


# Sessions


def of(kind: str, messages: list[Any]) -> list[Any]:
    return [message for message in messages if message["type"] == kind]


@pytest.mark.parametrize(("rate", "form"), [(RATE, "s16le"), (48_000, "f32le"), (8000, "s16le")])
@pytest.mark.parametrize("size", [160, 7001])
def test_a_session_says_what_a_stream_says(server: Server, path: Path, rate: int, form: str, size: int) -> None:
    x = np.concatenate(
        [np.zeros(rate // 2, np.float32), sound(2 * rate, 1, rate), np.zeros(2 * rate, np.float32), sound(rate, 2, rate)]
    )
    whole = np.round(x * 32767).astype("<i2")
    x, sent = (x, x) if form == "f32le" else ((whole / 32768).astype(np.float32), whole)
    messages = run(heard(server, np.split(sent, range(size, len(x), size)), rate=rate, format=form, every=0.5))
    events = list(listen(Model(path), [x], rate, 0.5))
    told = [event for event in events if event.kind != "speech"]
    found = of("measurement", messages)
    assert len(found) == len(told) > 4
    for message, event in zip(found, told, strict=True):
        row = event.row()
        assert message["final"] is (event.kind == "utterance")
        assert {name: message[name] for name in row if name != "event"} == {k: v for k, v in row.items() if k != "event"}
    assert [m["start"] for m in of("speech.start", messages)] == [e.row()["start"] for e in events if e.kind == "speech"]
    last = messages[-1]
    assert (last["type"], last["reason"], last["measurements"]) == ("session.closed", "client", len(told))
    assert last["received"] == last["computed"] == pytest.approx(len(x) / rate, abs=0.001)


def test_measurements_lie_between_start_and_end_of_speech(server: Server) -> None:
    messages = run(
        heard(
            server, np.array_split(np.concatenate([talk([2.0]), sound(35 * RATE, 3)]), 9), rate=RATE, format="f32le", every=1.0
        )
    )
    speaking = False
    for message in messages:
        assert message["type"] != "measurement" or speaking
        assert message["type"] != "speech.start" or not speaking
        speaking = {"speech.start": True, "speech.end": False}.get(message["type"], speaking)
    assert not speaking
    assert len(of("speech.start", messages)) == len(of("speech.end", messages)) == len([m for m in messages if m.get("final")])


def test_many_sessions_at_once_are_each_as_alone(server: Server, path: Path) -> None:
    sounds = [talk([0.5 + 0.2 * k, 0.8]) for k in range(8)]

    async def all_of_them() -> list[Any]:
        work = [heard(server, np.array_split(x, 30), rate=RATE, format="f32le", every=0.5) for x in sounds]
        return await asyncio.gather(*work)

    for x, messages in zip(sounds, run(all_of_them()), strict=True):
        told = [event for event in listen(Model(path), [x], RATE, 0.5) if event.kind != "speech"]
        assert [m["probabilities"] for m in of("measurement", messages)] == [event.probabilities for event in told]


def test_flush_answers_at_once_and_times_go_on(server: Server) -> None:
    async def work() -> None:
        async with session(server, {"rate": RATE, "format": "f32le", "min_confidence": 0.99, "adapt": True}) as client:
            for k in (1, 2):
                await client.send(np.concatenate([noise(0.5), sound(RATE, k)]))
                await client.say("flush")
                found = await client.next("measurement")
                while not found["final"]:
                    found = await client.next("measurement")
                assert found["emotion"] is None
                assert "is below 0.99" in found["reason"]
                assert 1.5 * k - 1 < found["end"] <= 1.5 * k + 0.05
            await client.say("session.close")
            assert (await client.rest())[1] == 1000

    run(work())


def test_progress_is_told_and_gaps_keep_the_time(server: Server) -> None:
    async def work() -> None:
        async with session(server, {"rate": RATE, "format": "f32le"}) as client:
            await client.send(noise(1.0))
            await client.say("gap", seconds=2.5)
            await client.send(np.concatenate([noise(1.0), sound(RATE, 1)]))
            progress = await client.next("progress")
            assert progress["dropped"] == 2.5
            assert progress["received"] == progress["computed"] == 5.5
            await client.say("session.close")
            messages, _ = await client.rest()
            assert of("measurement", messages)[-1]["end"] == pytest.approx(5.5, abs=0.05)
            assert messages[-1]["dropped"] == 2.5

    run(work())


def test_sessions_that_open_are_sessions_that_close(server: Server) -> None:
    found = server.until(lambda found: found["sessions"] == 0)
    assert found["sessions_opened_total"] == found["sessions_closed_total"] > 0
    assert found["lag_seconds_count"] > 0


# The command


def test_models_that_cannot_be_served_or_cannot_stream(
    environment: dict[str, str], npser: Command, tmp_path: Path, audio: Path
) -> None:
    deaf = network(tmp_path, SMALL).path
    with Server(environment, tmp_path, deaf) as server:
        assert server.ask("/v1/model").json["stream"] is False
        row = server.ask("/v1/predict", audio.read_bytes()).json
        assert row["probabilities"] == Model(deaf).predict(audio).probabilities
        upgrade = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec_WebSocket_Version": "13",
            "Sec_WebSocket_Key": "a" * 22,
        }
        found = server.ask("/v1/stream", **upgrade, Sec_WebSocket_Protocol="npser.v1")
        found.refuses(409, "model_cannot_stream")
        server.ask("/v1/stream", **upgrade).refuses(400, "subprotocol_missing")
    one_sentence(npser("serve", "--model", tmp_path / "no", status=1), "cannot be opened")


def test_a_network_without_lite_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(li2019, "plain")
    with pytest.raises(ValueError, match="the network li2019 answers by the compiled engine only"):
        State(Settings(model=str(path)), Measures())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0: others can reach it; add --token FILE, or --no-token"),
        (["--sessions", "-1"], "--sessions is -1; expected a whole number, at least 0"),
        (["--port", "70000"], "--port is 70000; expected a whole number, 0 to 65535"),
        (["--idle-seconds", "nan"], "--idle-seconds is nan; expected a number, at least 0.1"),
        (["--certificate", "a.pem"], "--certificate and --key: https needs both"),
        (["--prefix", "a/"], "--prefix a/: expected a path such as /emotion"),
        (["--allow-origin", "a.example"], "expected scheme and host alone"),
        (["--token", "a", "--no-token"], "leave one of the two out"),
        (["--config", "no.toml"], "--config no.toml: cannot be read"),
    ],
)
def test_wrong_settings_are_refused_in_a_sentence(npser: Command, words: list[str], text: str) -> None:
    one_sentence(npser("serve", *words, status=2), text)


def test_files_that_settings_name(npser: Command, tmp_path: Path, path: Path) -> None:
    (tmp_path / "short").write_text("short")
    one_sentence(npser("serve", "--token", "short", "--model", path, status=1), "--token short: expected 16 to 200 letters")
    one_sentence(npser("serve", "--token", "no", "--model", path, status=1), "--token no: cannot be read")
    one_sentence(
        npser("serve", "--certificate", "short", "--key", "short", status=1), "--certificate short --key short: cannot"
    )
    for text, words in (
        ("session = 3", "there is no setting 'session'"),
        ('sessions = "3"', "sessions is '3'; expected a whole number"),
        ("sessions = true", "sessions is True; expected a whole number"),
        ("sessions", "is no TOML"),
        ("allow_host = 3", "allow_host is 3; expected a list of texts"),
        ("no_token = 1", "no_token is 1; expected true or false"),
    ):
        (tmp_path / "a.toml").write_text(text)
        one_sentence(npser("serve", "--config", "a.toml", status=2), "--config a.toml", words)


def test_every_setting_has_a_flag_and_the_help_tells_its_default(npser: Command) -> None:
    text = " ".join(npser("serve", "--help").stdout.split())
    for name in FIELDS:
        assert flag_of(name) in text


def test_without_tornado_a_sentence_says_how_to_get_it(environment: dict[str, str], tmp_path: Path) -> None:
    code = without("tornado") + "from npser.commands.cli import main; sys.exit(main(['serve']))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    one_sentence(done, "pip install 'npser[serve]'")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_what_runs_and_tells_sessions(
    environment: dict[str, str], tmp_path: Path, path: Path, number: int
) -> None:
    server = Server(environment, tmp_path, path, *QUICK)

    async def work() -> None:
        async with session(server, {"rate": RATE, "format": "f32le"}) as client:
            await client.send(talk([1.0])[: round(1.9 * RATE)])
            counted = 'audio_seconds_total{source="stream"}'  # a signal may overtake sound
            await asyncio.to_thread(server.until, lambda found: found.get(counted, 0) > 0)
            stopped = asyncio.ensure_future(asyncio.to_thread(server.stop, number))
            messages, code = await client.rest()
            assert of("measurement", messages)[-1]["final"]
            assert (messages[-1]["type"], messages[-1]["reason"]) == ("session.closed", "stopping")
            assert code == 1001
            assert await stopped < 5

    run(work())


def test_several_processes_share_a_port_and_one_that_dies_is_followed(
    environment: dict[str, str], tmp_path: Path, path: Path, audio: Path
) -> None:
    with Server(environment, tmp_path, path, "--workers", "2", *QUICK) as server:
        expected = server.ask("/v1/predict", audio.read_bytes()).json
        assert all(server.ask("/v1/predict", audio.read_bytes()).json == expected for _ in range(6))
        server.until(lambda found: found['requests_total{route="predict",code="200"}'] == 7)
        victim = children(server.process.pid)[0]
        time.sleep(5.2)  # one that is younger is not followed: it would die again
        os.kill(victim, signal.SIGKILL)
        found = run(heard(server, [talk([1.0])], rate=RATE, format="f32le"))
        assert of("measurement", found)
        while len(children(server.process.pid)) < 2:
            time.sleep(0.05)
        assert server.metrics()['requests_total{route="predict",code="200"}'] == 7
    assert not Path(f"/proc/{victim}").exists()


def test_below_a_path_of_a_proxy_with_a_file_of_settings(
    environment: dict[str, str], tmp_path: Path, path: Path, audio: Path
) -> None:
    (tmp_path / "serve.toml").write_text('prefix = "/voice/emotion"\nsessions = 0\nbody_bytes = 9000000\n')
    with Server(environment, tmp_path, path, "--config", str(tmp_path / "serve.toml"), "--body-bytes", "5000000") as server:
        assert server.prefix == "/voice/emotion"
        assert server.ask("/v1/predict", audio.read_bytes()).status == 200
        assert server.ask("/v1/model").json["limits"]["body_bytes"] == 5_000_000
        assert server.ask("/openapi.json").json["servers"] == [{"url": "/voice/emotion"}]
        server.prefix = ""
        server.ask("/healthz").refuses(404, "not_found")
        server.prefix = "/voice/emotion"
        with pytest.raises(HTTPClientError, match="503"):
            run(heard(server, []))


# Examples


def test_a_telephone_line_is_a_session(server: Server, path: Path, environment: dict[str, str]) -> None:
    """The example's mu-law, which is told as the stream tells the samples that it stands for."""
    line = (
        (np.clip(np.resize(talk([1.0], pause=0.5)[::2], 16_000), -1, 1) * 127).astype(np.int8).tobytes()
    )  # any bytes are sound
    command = [sys.executable, str(EXAMPLES / "telephone.py"), f"ws://127.0.0.1:{server.port}/v1/stream"]
    done = subprocess.run(command, input=line, capture_output=True, env=environment, check=True)
    x = np.frombuffer(runpy.run_path(str(EXAMPLES / "telephone.py"))["linear"](line), "<i2")
    told = [event for event in listen(Model(path), [(x / 32768).astype(np.float32)], 8000) if event.kind != "speech"]
    messages = [json.loads(text) for text in done.stdout.splitlines()]
    assert [m["probabilities"] for m in of("measurement", messages)] == [event.probabilities for event in told]
    assert messages[-1]["type"] == "session.closed"


def test_the_examples_mu_law_is_that_of_g711() -> None:
    linear = runpy.run_path(str(EXAMPLES / "telephone.py"))["linear"]
    found = np.frombuffer(linear(bytes([0x00, 0x80, 0x7F, 0xFF, 0x0F, 0x8F, 0xF0])), "<i2").tolist()
    assert found == [-32124, 32124, 0, 0, -16764, 16764, 120]


def test_the_examples_for_files_work(server: Server, audio: Path, environment: dict[str, str], tmp_path: Path) -> None:
    text = (EXAMPLES / "serving.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "client.py").write_text(code.replace("127.0.0.1:8080", f"127.0.0.1:{server.port}"))
    command = [sys.executable, str(tmp_path / "client.py"), str(audio)]
    first, *windows = subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout.splitlines()
    assert first.split()[0] == server.ask("/v1/predict", audio.read_bytes()).json["emotion"]
    assert len(windows) > 3
    settings = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "serve.toml").write_text(settings[0])
    assert settings_of({}, tmp_path / "serve.toml").allow_host == ("voice.example",)
