"""The networks of a cross-validation: which systems there are, and what is said of them."""

from dataclasses import replace
from typing import Any

import pytest

from npser import model
from npser.experiment import systems
from npser.experiment.systems import Variant
from npser.networks import ghosh2016, han2014, lee2015, li2019, mirsamadi2017


def test_every_preset_of_every_network_is_a_system_in_the_order_of_the_years() -> None:
    found = systems.all_systems()
    for network, module in model.NETWORKS.items():
        for preset, config in module.PRESETS.items():
            assert found[f"{network}-{preset}"] == Variant(config, preset)
    assert len(found) == sum(len(module.PRESETS) for module in model.NETWORKS.values())
    years = [systems.year(found[name].config.network) for name in found]
    assert years == sorted(years)
    assert systems.year("toy") > 2100


def test_systems_are_named_one_by_one_by_their_network_or_all_together() -> None:
    there = [*systems.all_systems()]
    assert [*systems.chosen("all", 0)] == [name for name in there if name != "yenigalla2018-published"]
    assert [*systems.chosen("all,yenigalla2018-published", 0)] == there
    assert [*systems.chosen("yenigalla2018", 0)] == [name for name in there if name.startswith("yenigalla2018-")]
    assert [*systems.chosen("li2019", 0)] == ["li2019-default", "li2019-paper", "li2019-same-input"]
    both = systems.chosen(" li2019-paper, mirsamadi2017-published,li2019-paper", seed=7, epochs=3)
    assert [*both] == ["mirsamadi2017-published", "li2019-paper"]
    assert both["li2019-paper"].config == replace(li2019.PRESETS["paper"], seed=7, epochs=3)
    assert systems.chosen("li2019-paper", 7)["li2019-paper"].config.epochs == li2019.PRESETS["paper"].epochs
    assert [*systems.chosen("li2019-paper,, ", 0)] == ["li2019-paper"]
    for words in ("han1999", "li2019-published", "all,han1999"):
        with pytest.raises(model.UnknownName, match=r"there is no '\S+'; expected all, or some of .*li2019-default"):
            systems.chosen(words, 0)
    for words in ("", " , ,"):
        with pytest.raises(model.UnknownName, match=r"^--systems: names no system; expected all, or names with commas .*$"):
            systems.chosen(words, 0)


def test_presets_of_days_are_those_whose_network_has_a_reduced_one() -> None:
    assert systems.too_large(systems.all_systems()) == ["yenigalla2018-published"]
    assert [systems.names_all(words) for words in (None, "", "li2019", "li2019, all", "all")] == [False] * 3 + [True] * 2


def test_no_system_is_run_twice() -> None:
    full = Variant(li2019.PRESETS["default"], "default")
    found, told = systems.variants(full, systems=systems.chosen("li2019", 0))
    assert ([*found], told) == (["full", "li2019-paper", "li2019-same-input"], [])
    found, told = systems.variants(full, True, systems.chosen("li2019,li2019_feedforward-default", 0))
    assert [*found] == [
        "full",
        "no-attention",
        "no-recurrence",
        "no-gender",
        "shuffled-gender",
        "li2019-paper",
        "li2019-same-input",
    ]
    assert told == ["the settings of li2019_feedforward-default are those of the variant no-recurrence, so it is not run twice"]
    smaller = replace(full, config=replace(full.config, d_lstm=30))
    assert [*systems.variants(smaller, systems=systems.chosen("li2019-default", 0))[0]] == ["full", "li2019-default"]
    same = Variant(li2019.PRESETS["paper"], "default")  # by --set
    assert "li2019-paper are those of the full model" in systems.variants(same, systems=systems.chosen("li2019-paper", 0))[1][0]


def test_a_refit_needs_all_systems_to_allow_it() -> None:
    full = Variant(li2019.PRESETS["default"], "default")
    free, bound = li2019.PRESETS["paper"], replace(li2019.PRESETS["paper"], warmup=2.0)
    systems.refuse_refit({"full": full, "a-b": Variant(free, "b")})
    with pytest.raises(ValueError, match=r"--refit: with warmup=2 of a-b no epoch .*; leave a-b or --refit out"):
        systems.refuse_refit({"full": full, "a-b": Variant(bound, "b")})
    with pytest.raises(ValueError, match=r"--refit: with warmup=2 no epoch .*; add --set select=last"):
        systems.refuse_refit({"full": Variant(bound, "b"), "a-b": Variant(free, "b")})


def test_a_refit_is_refused_where_something_beside_the_epoch_is_chosen() -> None:
    last: dict[str, Any] = {"select": "last"}
    elm, kernel = (replace(han2014.PRESETS["published"], **last, classifier=kind) for kind in ("elm", "kernel"))
    alignment = replace(lee2015.PRESETS["published"], **last)
    for config, what in ((elm, "ridge"), (kernel, "C and gamma"), (alignment, "C and gamma")):
        with pytest.raises(ValueError, match=rf"--refit: {config.network} chooses {what} on .*; leave --refit out"):
            systems.refuse_refit({"full": Variant(config, "published")})
        systems.refuse_refit({"full": Variant(replace(config, classifier="mean"), "published")})
    with pytest.raises(ValueError, match=r"--refit: han2014 chooses ridge .*; leave han2014-published or --refit out"):
        systems.refuse_refit(
            {"full": Variant(li2019.PRESETS["paper"], "paper"), "han2014-published": Variant(elm, "published")}
        )


def test_what_is_tried_is_of_the_settings() -> None:
    def tried(config: Any) -> tuple[int, list[str]]:
        found = systems.described({"full": Variant(config, "published")})["full"]
        return found["tried"], [*found["choices"]]

    han, lee = han2014.PRESETS["published"], lee2015.PRESETS["published"]
    assert tried(han) == (6, ["ridge"])
    assert tried(replace(han, classifier="kernel")) == tried(lee) == (12, ["C", "gamma"])
    assert tried(replace(han, classifier="mean")) == tried(replace(lee, classifier="mean")) == (1, [])


def test_published_figures_are_only_of_what_their_paper_describes() -> None:
    def published(config: Any, preset: str) -> Any:
        return systems.described({"full": Variant(config, preset)})["full"]["published"]

    for module in (han2014, lee2015, ghosh2016, mirsamadi2017):
        assert published(replace(module.PRESETS["published"], seed=3, epochs=2), "published") == module.PUBLISHED
        assert published(module.PRESETS["same-input"], "same-input") is None
        assert published(replace(module.PRESETS["published"], batch=3), "published") is None
    assert published(li2019.PRESETS["paper"], "paper") == li2019.PUBLISHED
    assert published(li2019.PRESETS["default"], "default") is None


def test_every_system_states_its_title_and_tries_twelve_settings_at_most() -> None:
    for name, found in systems.described(systems.all_systems()).items():
        assert found["title"] != found["network"], name
        assert 1 <= found["tried"] <= 12, name
        assert not found["changed"]
        if found["published"]:
            assert "IEMOCAP" in found["published"]["task"]
            wa = found["published"].get("wa", 0.7)  # not all papers give it
            assert 0.3 < found["published"]["ua"] < wa + 0.1 < 1
