"""The networks of a cross-validation: the full model, its ablation, and the systems that it is compared with."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any

from npser import model
from npser.config import Config

THE_PAPERS = ("published", "paper")  # presets that are what a paper describes, so its figures are of them
REDUCED = "reduced"  # a preset that stands for one of those, where its size takes days
ALL = "all"  # systems
OF_GENDER: dict[str, dict[str, Any]] = {"no-gender": {"beta": 0.0}, "shuffled-gender": {}}  # variants of the gender loss


@dataclass(frozen=True)
class Variant:
    """A network to be cross-validated: its settings but for the seed, and the preset that these started from.

    shuffled: it is a control, which learns from genders that are shuffled.
    """

    config: Config
    preset: str
    shuffled: bool = False

    def seeded(self, seed: int) -> Variant:
        """The same with another seed."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, seed=seed))


def all_systems() -> dict[str, Variant]:
    """Every preset of every network, by the name NETWORK-PRESET, in the order of the literature's years."""
    return {
        f"{network}-{preset}": Variant(config, preset)
        for network in sorted(model.NETWORKS, key=year)
        for preset, config in model.NETWORKS[network].PRESETS.items()
    }


def year(network: str) -> int:
    """When a network was published: its name says it; those whose name says nothing come last."""
    found = re.search(r"(?:19|20)\d\d", network)
    return int(found[0]) if found else 9999


def chosen(words: str, seed: int, epochs: int | None = None, balance: str | None = None) -> dict[str, Variant]:
    """The systems that a text names.

    Parameters
    ----------
    words : str
        Names with commas between them: NETWORK-PRESET, NETWORK for each of its presets, or all: every preset but those that
        are too large to be trained on a whole corpus, which their network's preset reduced stands for.
    seed : int
        The first one of the cross-validation.
    epochs : int, optional
        In place of those of the presets.
    balance : str, optional
        Likewise: see config.Config.

    Raises
    ------
    model.UnknownName
        For a name that there is not, with those that there are; and where nothing is named.
    """
    there, names = all_systems(), set[str]()
    for word in filter(None, map(str.strip, words.split(","))):
        found = [name for name, system in there.items() if word in (name, system.config.network) or word == ALL]
        found = [name for name in found if word != ALL or name not in too_large(there)]
        if not found:
            raise model.UnknownName(
                f"--systems: there is no {word!r}; expected all, or some of {', '.join([*model.NETWORKS, *there])}"
            )
        names.update(found)
    if not names:
        raise model.UnknownName("--systems: names no system; expected all, or names with commas between them")
    given = {"seed": seed, "epochs": epochs, "balance": balance}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return {
        name: dataclasses.replace(system, config=dataclasses.replace(system.config, **changes))
        for name, system in there.items()
        if name in names
    }


def names_all(words: str | None) -> bool:
    """Whether a text of systems names all of them: the whole table, the ablation of the full model included."""
    return words is not None and ALL in map(str.strip, words.split(","))


def too_large(there: dict[str, Variant]) -> list[str]:
    """Presets, named published, that are not among all systems: their network has a preset reduced."""
    reduced = {system.config.network for system in there.values() if system.preset == REDUCED}
    return [name for name, system in there.items() if system.config.network in reduced and system.preset in THE_PAPERS]


def variants(
    full: Variant, ablate: bool = False, systems: dict[str, Variant] | None = None
) -> tuple[dict[str, Variant], list[str]]:
    """All networks of a plan by their names, the full model first, and what there is to say of those that are left out.

    The ablation has the settings that each variant changes, those of the network first. shuffled-gender is a control: a gender
    loss that says nothing about gender. None of the systems is run twice.
    """
    found, notices = {"full": full}, []
    for name, changes in {**model.module_of(full.config).ABLATION, **OF_GENDER}.items() if ablate else ():
        changed = model.varied(full.config, changes)
        if name not in OF_GENDER and changed == full.config:
            notices.append(f"the settings are those of the variant {name} already, so it is left out")
        else:
            found[name] = Variant(changed, full.preset, shuffled=name == "shuffled-gender")
    for name, system in (systems or {}).items():
        same = next((other for other, v in found.items() if v.config == system.config and not v.shuffled), None)
        if same is None:
            found[name] = system
        elif name != name_of(found[same]) or same != "full":
            what = "the full model" if same == "full" else f"the variant {same}"
            notices.append(f"the settings of {name} are those of {what}, so it is not run twice")
    return found, notices


def name_of(variant: Variant) -> str:
    """NETWORK-PRESET."""
    return f"{variant.config.network}-{variant.preset}"


def refuse_refit(named: dict[str, Variant]) -> None:
    """ValueError where one of the networks cannot be trained anew with the validation group."""
    for name, variant in named.items():
        c, way_out = variant.config, "leave --refit out" if name == "full" else f"leave {name} or --refit out"
        who = "" if name == "full" else f" of {name}"
        if (c.schedule != "constant" or c.warmup) and c.select != "last":
            why = f"schedule={c.schedule}" if c.schedule != "constant" else f"warmup={c.warmup:g}"
            way_out = "add --set select=last" if name == "full" else way_out
            raise ValueError(f"--refit: with {why}{who} no epoch can be trained to alone; {way_out}")
        if choices := choices_of(c):
            raise ValueError(f"--refit: {c.network} chooses {' and '.join(choices)} on the validation group; {way_out}")


def choices_of(c: Config) -> dict[str, tuple[Any, ...]]:
    """What a network with these settings tries on the validation part, beside epochs."""
    module = model.module_of(c)
    return module.choices(c) if hasattr(module, "choices") else {}


def described(named: dict[str, Variant]) -> dict[str, dict[str, Any]]:
    """What a report says of the full model and of each system: its settings, and what its module states.

    changed: its settings are not the preset's, of which the number of epochs and the balance do not count. published: the
    figures of its paper and their task, where it is what that paper describes. choices: what is tried on the validation
    part, beside epochs.
    """
    found = {}
    for name, variant in named.items():
        if name in ("full", name_of(variant)):  # the others are of the ablation
            c, module = variant.config, model.module_of(variant.config)
            choices = {setting: list(values) for setting, values in choices_of(c).items()}
            changed = c != dataclasses.replace(module.PRESETS[variant.preset], seed=c.seed, epochs=c.epochs, balance=c.balance)
            the_papers = variant.preset in THE_PAPERS and not changed
            found[name] = {
                "name": name_of(variant),
                "network": c.network,
                "preset": variant.preset,
                "changed": changed,
                "title": getattr(module, "TITLE", c.network),
                "published": getattr(module, "PUBLISHED", None) if the_papers else None,
                "choices": choices,
                "tried": math.prod(map(len, choices.values())),
                "config": dataclasses.asdict(c),
            }
    return found
