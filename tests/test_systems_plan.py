"""Several systems as one plan with one report, on a tree that is laid out as IEMOCAP is."""

import json
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import ROOT, UNCOMPILED, Command, one_sentence, report_of, start, tone

from npser import corpora, features, frame_features, model
from npser.commands import cli
from npser.commands import crossval as crossval_command
from npser.dataset import Dataset
from npser.experiment import baselines, compare, crossval, jobs, material, systems, table2
from npser.networks import ghosh2016, li2019, mirsamadi2017
from npser.split import Split
from npser.train import Run

HEAVY = pytest.mark.skipif(UNCOMPILED, reason="every network at its full size: too slow without the compiler")

HAN = {  # the codes of five classes, and the pitch of their voices
    "exc": 1.5,
    "fru": 1.3,
    "hap": 1.1,
    "neu": 0.9,
    "sad": 0.7,
}
LABELS = "excited,frustrated,happy,neutral,sad"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions as IEMOCAP's: of each speaker five emotions improvised and two of them read, 42 files of 0.4 s."""
    root, count = tmp_path_factory.mktemp("release") / "IEMOCAP_full_release", 0
    for session in "123":
        for scene, codes in (("impro01", [*HAN]), ("script01_1", ["ang", "hap"])):
            dialogue, lines = f"Ses0{session}F_{scene}", []
            audio = root / f"Session{session}" / "sentences" / "wav" / dialogue
            labels = root / f"Session{session}" / "dialog" / "EmoEvaluation" / f"{dialogue}.txt"
            for folder in (audio, labels.parent):
                folder.mkdir(parents=True, exist_ok=True)
            for who, base in (("F", 200.0), ("M", 110.0)):
                for turn, code in enumerate(codes):
                    count += 1
                    name = f"{dialogue}_{who}{turn:03}"
                    pitch = base * HAN.get(code, 1.2) + 5 * int(session)
                    tone(audio / f"{name}.wav", pitch, 0.4, seed=count)
                    lines.append(f"[{turn}.2 - {turn}.8]\t{name}\t{code}\t[2.5, 2.5, 2.5]\n")
            labels.write_text("".join(lines))
    return root


# The material


def prepared(corpus: corpora.Corpus, configs: list[Any], cache: Path) -> list[Dataset]:
    with ThreadPoolExecutor(1) as pool:
        return material.prepare(corpus, configs, cache, pool, lambda items, **_: items, skip_bad=True)


def test_all_networks_have_the_same_utterances_whatever_kind_of_features_one_cannot_be_had_of(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bands, frames = li2019.PRESETS["default"], mirsamadi2017.PRESETS["published"]
    whole = corpora.load(corpus)
    rows = frame_features.frame_features

    def fragile(x: np.ndarray) -> np.ndarray:
        if bad and np.array_equal(x, sound):
            raise ValueError("no pitch in it")
        return rows(x)

    sound = next(features.read_windows(whole.utterances[5].path, 7.5, cut=False))
    monkeypatch.setattr(frame_features, "frame_features", fragile)
    for bad in (False, True):
        if bad:
            with pytest.warns(UserWarning, match=rf"{whole.utterances[5].path.name}: no pitch in it"):
                a, b, again = prepared(whole, [bands, frames, bands], tmp_path / "bad")
        else:
            a, b, again = prepared(whole, [bands, frames, bands], tmp_path / "good")
        assert a.utterances == b.utterances == again.utterances
        assert len(a.utterances) == 24 - bad
        assert a.store.rows is again.store.rows  # opened once
        assert (a.store.rows.shape[1], b.store.rows.shape[1]) == (128, 18)
        assert (whole.utterances[5] in a.utterances) != bad
        assert (
            [Path(path).name for path in b.bad] == [Path(path).name for path in a.bad] == [whole.utterances[5].path.name] * bad
        )
        for data, config in ((a, bands), (b, frames)):
            for r in (0, 11, len(data.utterances) - 1):
                x = next(features.read_windows(data.utterances[r].path, 7.5, cut=False))
                start, end = data.store.bounds[data.store.recordings[[r, r + 1]]]
                kind = model.module_of(config).kind(config)
                np.testing.assert_array_equal(data.store.rows[start:end], kind.rows(x))


def test_linear_baselines_hear_log_mel_bands_and_the_frame_features_where_there_are_any() -> None:
    bands, paper, frames = li2019.PRESETS["default"], li2019.PRESETS["paper"], mirsamadi2017.PRESETS["published"]
    same_input = mirsamadi2017.PRESETS["same-input"]
    assert material.of_baselines([paper, bands]) == {"linear": paper}
    assert material.of_baselines([frames]) == {"linear": bands, "linear-frames": frames}
    assert material.of_baselines([same_input, paper, frames]) == {"linear": same_input, "linear-frames": frames}
    flow = ghosh2016.PRESETS["published"]  # two spectra
    for full in (frames, flow, paper):
        alone = material.of_baselines([full])
        for name, config in material.of_baselines([full, same_input, paper, frames]).items():
            assert name == "linear-frames" or config == alone[name]
    assert material.of_baselines([flow, same_input, paper]) == {"linear": bands}
    toy = features.Kind(lambda x: x, {"frames": "toy"}, 7.5, False, width=2)
    assert not features.is_log_mel(toy)
    assert not features.is_log_mel(replace(toy, width=256, settings=features.SETTINGS))  # two spectra


def test_statistics_of_frame_features_are_of_frames_in_sound(corpus: Path, tmp_path: Path) -> None:
    (data,) = prepared(corpora.load(corpus), [mirsamadi2017.PRESETS["published"]], tmp_path)
    with ThreadPoolExecutor(1) as pool:
        found = baselines.utterance_statistics(data.store, pool, frames=True)
    x = next(features.read_windows(data.utterances[7].path, 7.5, cut=False))
    X = frame_features.with_regression_deltas(frame_features.frame_features(x))
    assert len(X) == 36
    X = X[:35]  # the last is centred behind the last of 5600 samples
    np.testing.assert_allclose(found[7], np.concatenate([X.mean(axis=0), X.std(axis=0)]), rtol=1e-4, atol=1e-4)


def test_a_style_is_taken_alone_and_what_is_left_out_is_counted(release: Path) -> None:
    whole = corpora.load(release, labels=["angry", "happy"])
    kept, others = material.of_style(whole, "scripted")
    assert {u.style for u in kept.utterances} == {"scripted"}
    assert (len(kept.utterances), others) == (12, {"improvised": 12})
    assert kept.labels == whole.labels
    some = replace(whole, utterances=[replace(u, style=None) if k < 2 else u for k, u in enumerate(whole.utterances)])
    assert sum(material.of_style(some, "scripted")[1].values()) == len(whole.utterances) - 12
    assert material.of_style(some, "scripted")[1]["unknown"] == 2
    with pytest.raises(
        ValueError, match=r"--style scripted: no utterance of it is neutral; leave that class out with --labels"
    ):
        material.of_style(corpora.load(release, labels=["angry", "neutral"]), "scripted")
    with pytest.raises(
        ValueError, match=r"--style acted: no utterance is of this style; the styles there are: improvised, scripted"
    ):
        material.of_style(whole, "acted")
    none = replace(whole, utterances=[replace(u, style=None) for u in whole.utterances])
    with pytest.raises(ValueError, match="the data state none, so leave --style out"):
        material.of_style(none, "scripted")


# The whole plan


THERE = {  # of one network one preset is enough here: four differ in sizes, and published takes long
    name: system
    for name, system in systems.all_systems().items()
    if system.config.network != "yenigalla2018" or system.preset == "same-input"
}
WORDS = ("--labels", LABELS, "--style", "improvised", "--epochs", "1", "--folds", "2", "--no-oracle")


@pytest.fixture(scope="module")
def plain(release: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full model alone."""
    out = tmp_path_factory.mktemp("plain") / "out"
    command = [sys.executable, "-m", "npser", "crossval", str(release), *WORDS, "--out", str(out)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=600)
    return out


@pytest.fixture(scope="module")
def whole(
    plain: Path, release: Path, environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Every system, added to the full model in the same folder; and what the terminal showed."""
    out = tmp_path_factory.mktemp("whole") / "out"
    shutil.copytree(plain, out)
    command = [sys.executable, "-m", "npser", "crossval", str(release), *WORDS, "--systems", ",".join(THERE), "--out", str(out)]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=600)
    return out, done.stdout


def without_times(report: str) -> str:
    """report.md without the table of seconds, all that differs from one run to the next."""
    before, head, rest = report.partition("| system | seconds of training a network |")
    assert head
    return before + rest.partition("\n\n")[2]


@HEAVY
def test_the_whole_plan_on_five_classes_of_improvised_speech(plain: Path, whole: tuple[Path, str]) -> None:
    out, shown = whole
    there = THERE
    report, text, jobs_run = report_of(out), (out / "report.md").read_text(), len(THERE) * 2
    assert f"jobs      {jobs_run}, of which 2 are done already" in shown
    assert report["labels"] == sorted(LABELS.split(","))
    assert report["utterances"] == 30
    assert report["style"] == {"name": "improvised", "left_out": {"scripted": 6}}
    assert json.loads((out / "plan.json").read_text())["style"] == report["style"]
    assert "30 utterances of style improvised (left out: 6 scripted), each" in text
    assert set(report["variants"]) == {"full", *THERE} - {"li2019-default"}
    assert set(report["differences"]) == {*report["variants"], *report["baselines"]} - {"full"}
    assert report["baselines"]["linear"]["confusion"] != report["baselines"]["linear-frames"]["confusion"]
    assert "| **Full model**: Self attention + multitask (Li et al., 2019), li2019-default | " in text
    assert "| DNN-ELM (Han et al., 2014), han2014-published | " in text
    assert "Full model: Self attention + multitask (Li et al., 2019), preset default of li2019, " in text
    assert "li2019-default is the full model; beside it han2014-published (1 epoch), " in shown
    assert "li2019, preset default, 1 epoch\n" in shown
    assert re.search(r"\nFull model, li2019-default:\n +excited", shown)
    sizes = text.partition("| system | parameters |")[2].partition("\n\n")[0]
    years = [systems.year(name) for name in re.findall(r"^\| (?:Full model, )?(\S*?)-\S+ \| [\d,]+", sizes, re.MULTILINE)]
    assert len(years) == len(THERE)
    assert years == sorted(years)
    for name, system in report["systems"].items():
        assert report["variants"][name]["parameters"] > 0
        assert system["config"]["epochs"] == 1
        if system["published"]:
            assert f"\n- {system['title']}: {system['published']['task']}\n" in text
    published = {line.split(" | ")[0] for line in text.splitlines() if line.endswith(" % |")}
    others = {f"| {system['title']}, {name}" for name, system in report["systems"].items() if system["published"]}
    assert published == others
    assert "| 62.85 % | 63.89 % |" in text
    assert "| 54.3 % | 48.2 % |" in text
    order = sorted(there, key=lambda name: (systems.year(name), name == "li2019-default"))  # the full model ends its year
    for head in ("Recall by class", "The full model minus", "## Mean and deviation", "UA of each fold", "seconds of training"):
        rows = text.partition(head)[2].partition("|---")[2].partition("\n\n")[0]
        named = [name for name in re.findall(r"^\| (?:Full model, )?(\S+) \| ", rows, re.MULTILINE) if name in there]
        assert named == [name for name in order if name in named], head
        assert len(named) >= len(order) - 1, head
    assert " the network " not in " ".join(report["notices"])
    seconds = json.loads((out / "report.json").read_text())["run"]["seconds_of"]
    assert set(seconds) == set(report["variants"])
    assert all(value > 0 for of in seconds.values() for value in of.values())
    assert "seconds" not in json.dumps(report["variants"]).replace("seconds_up_to", "").replace("max_seconds", "")


@HEAVY
def test_the_full_model_is_what_it_is_without_the_systems(plain: Path, whole: tuple[Path, str]) -> None:
    out, _ = whole
    alone, beside = report_of(plain), report_of(out)
    assert list(alone["systems"]) == ["full"]
    for name in ("split", "config", "utterances", "labels", "seeds", "sampling", "classes_of_speakers"):
        assert alone[name] == beside[name], name
    assert alone["variants"]["full"] == beside["variants"]["full"]
    for name in alone["baselines"]:
        assert alone["baselines"][name] == beside["baselines"][name]
        assert alone["differences"][name] == beside["differences"][name]
    for job in (plain / "jobs").iterdir():
        for name in ("model.safetensors", "predictions.jsonl", "result.json"):
            assert (job / name).read_bytes() == (out / "jobs" / job.name / name).read_bytes()
    found = compare.compare([compare.read(plain), compare.read(out)])
    assert found["differences"][0]["ua"]["difference"] == 0
    assert not any(found["unlike"][0][what] for what in ("splits", "seeds", "settings", "versions"))


@HEAVY
def test_a_plan_that_is_killed_goes_on_to_the_same_report(
    whole: tuple[Path, str], release: Path, environment: dict[str, str], npser: Command, tmp_path: Path
) -> None:
    words = ("crossval", release, *WORDS, "--systems", ",".join(THERE), "--out", tmp_path / "out")
    process = start(environment, tmp_path, *words)
    deadline = time.monotonic() + 200
    while len(list(tmp_path.glob("out/jobs/*/result.json"))) < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.communicate()
    assert not (tmp_path / "out" / "report.json").exists()
    before = {path: path.read_bytes() for path in tmp_path.glob("out/jobs/*/result.json")}
    assert "are done already" in npser(*words).stdout
    assert all(path.read_bytes() == content for path, content in before.items())
    assert report_of(tmp_path / "out") == report_of(whole[0])
    texts = [without_times((out / "report.md").read_text()) for out in (tmp_path / "out", whole[0])]
    assert texts[0] == texts[1]
    for job in (whole[0] / "jobs").iterdir():
        for name in ("model.safetensors", "predictions.jsonl", "metrics.jsonl"):
            assert (job / name).read_bytes() == (tmp_path / "out" / "jobs" / job.name / name).read_bytes()


def test_a_network_that_npser_does_not_bring_is_a_system_as_well(
    environment: dict[str, str], corpus: Path, small: Path, tmp_path: Path
) -> None:
    script = [sys.executable, str(ROOT / "tests" / "toy_network.py"), "crossval", str(corpus), "--config", str(small)]
    script += ["--folds", "2", "--epochs", "2", "--systems", "toy", "--out", "out", "--json"]
    done = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "toy-published (2 epochs)" in done.stderr
    found = json.loads(done.stdout)
    assert list(found["variants"]) == ["full", "toy-published"]
    full, toy = (found["systems"][name] for name in ("full", "toy-published"))
    assert (full["name"], full["changed"], full["config"]["d_lstm"]) == ("li2019-default", True, 4)
    assert (toy["title"], toy["published"], toy["config"]["learning_rate"]) == ("toy", None, 0.05)
    assert found["variants"]["toy-published"]["state"] == 2 * 4 + 10 * (
        2 + 2
    )  # statistics, and what is solved of ten utterances
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| toy-published | 22 and 48 held beside | 1 | - | by ua, of 2 |" in text
    assert "| **Full model**: Self attention + multitask (Li et al., 2019), li2019-default with other settings | " in text
    assert text.count("\n| Full model, li2019-default with other settings | ") >= 5
    assert "full model, li2019-default with other settings  WA" in done.stderr.replace("Full", "full")


def test_a_changed_full_model_and_its_preset_have_different_names(
    npser: Command, corpus: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    words = ("crossval", corpus, "--network", "han2014", "--set", "d_dense=8", "--set", "classifier=mean", "--folds", "2")
    npser(*words, "--epochs", "1", "--systems", "han2014-published", "--ablate", "--no-oracle", "--out", tmp_path / "out")
    report, text = report_of(tmp_path / "out"), (tmp_path / "out" / "report.md").read_text()
    assert [report["systems"][name]["tried"] for name in ("full", "han2014-published")] == [1, 6]
    for head in ("| system | parameters |", "| system | seconds of training"):
        rows = text.partition(head)[2].partition("\n\n")[0].splitlines()
        assert [row.split(" | ")[0] for row in rows[2:]] == [
            "| han2014-published",
            "| Full model, han2014-published with other settings",
        ]
    assert "| DNN-ELM (Han et al., 2014), han2014-published | " in text
    assert text.count(" | 54.3 % | 48.2 % |") == 1
    for name in ("kernel ELM", "ridge in place of ELM", "all segments"):
        assert f"\n| {name} | " in text
    assert "ablation of 5.4" not in text
    assert "and the test group" not in text


def test_a_report_of_one_network_names_it_and_what_was_tried(npser: Command, corpus: Path, tmp_path: Path) -> None:
    words = ("crossval", corpus, "--network", "lee2015", "--set", "d_lstm=2", "--epochs", "1", "--folds", "2")
    shown = npser(*words, "--out", tmp_path / "out").stdout
    assert "out, lee2015, preset published, 1 epoch\n" in shown
    text = (tmp_path / "out" / "report.md").read_text()
    assert "Network: BLSTM-ELM (Lee and Tashev, 2015), preset published of lee2015 with other settings, " in text
    assert "| Full model | " in text.partition("| system | parameters | settings tried |")[2].partition("\n\n")[0]
    assert "| 12 | C 0.0625, 1.0, 16.0, 256.0; gamma 0.00390625, 0.015625, 0.0625 | by ua, of 1 |" in text
    assert "seconds of training" not in text
    assert "published WA" not in text


def test_variants_are_called_as_the_paper_does_only_where_they_are_its_own() -> None:
    def called(network: str, name: str) -> str:
        return table2.title({"systems": {"full": {}}, "config": {"network": network}, "text_informed": ["mine"]}, name)

    assert called("li2019", "no-attention") == called("li2019_feedforward", "no-attention") == "– Self attention"
    assert called("mirsamadi2017", "no-attention") == "no attention"
    assert called("yenigalla2018", "mine") == "mine, TEXT-INFORMED"
    assert called("mirsamadi2017", "no-local-attention") == "no local attention"
    assert called("lee2015", "linear-frames") == "linear, on statistics of frame features"


def test_all_is_the_whole_table_with_the_ablation_and_without_what_takes_days() -> None:
    args = cli._parser().parse_args(["crossval", "emodb", "--systems", "all"])
    variants, told = crossval_command._variants(args)
    assert {"no-attention", "no-recurrence", "no-gender", "shuffled-gender"} < set(variants)
    assert "yenigalla2018-reduced" in variants
    assert "yenigalla2018-published" not in variants
    assert any(text.startswith("yenigalla2018-published: left out of all") for text in told)
    args = cli._parser().parse_args(["crossval", "emodb", "--systems", "all, yenigalla2018-published"])
    variants, told = crossval_command._variants(args)
    assert "yenigalla2018-published" in variants
    assert not any("left out of all" in text for text in told)


def test_wrong_words_get_one_sentence(npser: Command, release: Path, small: Path) -> None:
    words = ("crossval", release, "--config", small)
    one_sentence(npser(*words, "--systems", "li2019,han1999", status=2), "'han1999'", "all", "li2019_feedforward-paper")
    one_sentence(npser(*words, "--style", "acted", status=1), "--style acted", "improvised, scripted")
    one_sentence(npser(*words, "--systems", "", status=2), "--systems: names no system")
    one_sentence(npser(*words, "--style", "", status=1), "--style: names no style")
    one_sentence(npser(*words, "--systems", "mirsamadi2017-published", "--refit", status=1), "mirsamadi2017-published")


# What is told


def test_one_display_counts_the_epochs_of_jobs_that_have_different_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bar:
        n, disable = 0, False

        def refresh(self) -> None:
            shown.append(self.n)

        def close(self) -> None:
            pass

    def progress(_: None, total: int, **options: Any) -> Any:
        shown.append(total)
        return Bar()

    def run_jobs(jobs: list[dict[str, Any]], made: Any, tell: Any, watch: Any) -> int:
        watch()
        for name, lines, whole in (("a", 3, False), ("b", 2, True), ("c", 0, False)):  # b chose its epoch and trained anew
            (tmp_path / name).mkdir()
            (tmp_path / name / "metrics.jsonl").write_text("{}\n" * lines)
            if whole:
                (tmp_path / name / "result.json").write_text("{}")
        watch()
        return 0

    shown: list[int] = []
    monkeypatch.setattr(crossval.executors, "run_jobs", run_jobs)
    pending = [{"folder": str(tmp_path / name), "epochs": epochs} for name, epochs in (("a", 10), ("b", 7), ("c", 40))]
    with ThreadPoolExecutor(1) as pool:
        crossval._run_pending(pending, crossval.Workers(), Run(tmp_path, pool, lambda _: None, progress))
    assert shown == [57, 0, 10]


def test_seconds_are_the_mean_of_the_jobs_that_know_them() -> None:
    runs = [
        {"seconds": 9.0, "training": 2.0, "answering": 0.5},
        {"seconds": 9.0, "training": None, "answering": 1.5},
        {"seconds": 1.0},
    ]
    assert crossval._times([{"run": run} for run in runs]) == {"training": 2.0, "answering": 1.0}
    assert crossval._times([{"run": runs[2]}]) == {"training": None, "answering": None}


def test_seconds_of_answering_are_of_a_minute_of_speech(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        """A network that takes three seconds."""

        temperature = 1.0

        def log_probabilities(self, store: Any, recordings: np.ndarray, pool: Any) -> tuple[np.ndarray, np.ndarray]:
            clock.append(clock[-1] + 3)
            return np.log(np.full((len(recordings), 2), 0.5)), np.empty((len(recordings), 0))

    clock = [100.0]
    (data,) = prepared(corpora.load(corpus), [li2019.PRESETS["default"]], tmp_path)
    monkeypatch.setattr(jobs.time, "perf_counter", lambda: clock[-1])
    slow: Any = Slow()
    with ThreadPoolExecutor(1) as pool:
        _, seconds = jobs._answered(slow, data, Split([], [], list(range(10))), tmp_path, pool)
    assert seconds == pytest.approx(60 * 3 / (10 * 0.35))
