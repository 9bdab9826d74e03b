"""npser cache: what lies there, and its removal."""

import json
import os
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Timer
from typing import Any

import pytest
from helpers import Command, one_sentence

from npser import files
from npser.commands.cache import remove
from npser.files import lock


def listed(npser: Command, cache: Path, *words: str) -> dict[str, Any]:
    return json.loads(npser("cache", "--cache", cache, "--json", *words).stdout)


@pytest.fixture
def cache(npser: Command, corpus: Path, small: Path, tmp_path: Path) -> Path:
    """A cache with the features of one corpus in two settings, and with what another version and a killed run left."""
    for setting in ("max_seconds=0.2", "max_seconds=0.1"):
        npser(
            "train",
            corpus,
            "--config",
            small,
            "--epochs",
            "1",
            "--set",
            setting,
            "--cache",
            tmp_path / "kept",
            "--out",
            setting,
        )
    old = tmp_path / "kept" / "features-0123456789abcdef01234567"
    old.mkdir()
    (old / "rows.f32").write_bytes(bytes(10))
    (tmp_path / "kept" / "somebody's").mkdir()
    return tmp_path / "kept"


def test_what_lies_in_the_cache_is_listed_and_removed(npser: Command, cache: Path, corpus: Path) -> None:
    found = listed(npser, cache)["entries"]
    assert [row["recordings"] for row in found] == [24, 24, None]
    assert found[0]["what"] == f"log-mel bands of {corpus}"
    assert found[0]["bytes"] == sum(file.stat().st_size for file in (cache / found[0]["name"]).iterdir())
    shown = npser("cache", "--cache", cache).stdout.splitlines()
    assert len(shown) == 4
    assert shown[-1].endswith(f" MB in {cache}")
    assert "another version" in shown[2]

    again = listed(npser, cache, "--remove", found[2]["name"])
    assert again["removed"] == [found[2]["name"]]
    assert [row["name"] for row in listed(npser, cache)["entries"]] == [row["name"] for row in found[:2]]
    before = time.time() - 9 * 86400
    os.utime(cache / found[1]["name"], (before, before))
    assert listed(npser, cache, "--unused", "8")["removed"] == [found[1]["name"]]
    assert listed(npser, cache, "--unused", "0")["removed"] == [found[0]["name"]]
    assert listed(npser, cache)["entries"] == []
    assert (cache / "somebody's").exists()


def test_what_is_not_there_is_named(npser: Command, tmp_path: Path) -> None:
    assert listed(npser, tmp_path / "none")["entries"] == []
    one_sentence(npser("cache", "--cache", tmp_path, "--remove", "features-x", status=1), "features-x", str(tmp_path))
    one_sentence(npser("cache", "--cache", tmp_path, "--unused", "-1", status=2), "--unused -1")
    (tmp_path / "features-x").mkdir()
    one_sentence(
        npser("cache", "--cache", tmp_path, "--remove", "features-x", "--unused", "1", status=2), "--remove and --unused"
    )


def test_a_store_that_is_being_made_is_waited_for_and_left(tmp_path: Path) -> None:
    making, made = tmp_path / "features-a-b-0123", tmp_path / "features-a-b"
    making.mkdir()
    with ThreadPoolExecutor(1) as pool:
        with lock(tmp_path / "features-a-b.lock"):
            waiting = pool.submit(remove, making)
            making.rename(made)
        waiting.result()
    assert made.is_dir()


def test_who_waits_for_another_npser_is_told_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "PATIENCE", 0.05)
    held, done = Event(), Event()

    def hold() -> None:
        with lock(tmp_path / ".lock"):
            held.set()
            done.wait(60)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        held.wait(60)
        Timer(0.2, done.set).start()
        with pytest.warns(UserWarning, match="waiting for another npser, which is at work there"), lock(tmp_path / ".lock"):
            assert done.is_set()
        holding.result()
    with warnings.catch_warnings(), lock(tmp_path / ".lock"):
        warnings.simplefilter("error")
