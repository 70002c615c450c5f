"""The trials of a study, and every mistake in it that can be found before any of them runs."""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cnn_lab.analysis.verdict import Record, nothing_at
from cnn_lab.config import Comparison, ExperimentConfig, Panel, Place, Study, Variant
from cnn_lab.config.node import freeze, from_dict, to_dict
from cnn_lab.config.values import check_options
from cnn_lab.core.errors import ConfigError, WorkdirError, lookup
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.data.subsets import choose_examples
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.initialization import complete_config
from cnn_lab.study.computations import COMPUTATIONS
from cnn_lab.study.measures import MEASURES, OVER_SEEDS, Trial, place_of, unseen_positions
from cnn_lab.workdir.run_dir import changes_since, has_checkpoints, read_record

RUNS = "runs"


def make_trials(study: Study, folder: Path, num_seeds: int) -> list[Trial]:
    """All trainings of a study, none of which is started by this.

    Each seed has its own weights, order of examples and, unless it shares them with its group
    (`seeds_per_split`), choice of images; all variants have the same ones of a seed.

    Raises:
        CnnLabError: a config that cannot work, an unknown measure, a claim about nothing, a folder
            of another study.
    """
    for name in study.measures:
        lookup(MEASURES, name, "measure", "measures")
    for name in study.over_seeds:
        lookup(OVER_SEEDS, name, "measure over seeds", "over_seeds")
    for computation in study.computations:
        function = lookup(COMPUTATIONS, computation.name, "computation", "computations")
        check_options(function, computation.options, f"computation {computation.name}")
    if num_seeds < 1:
        raise ConfigError(where="--seeds", found=num_seeds, allowed="at least 1")
    if study.seeds_per_split < 1 or num_seeds % study.seeds_per_split:
        allowed = f"a multiple of {study.seeds_per_split}, by which the study groups its seeds"
        raise ConfigError(where="--seeds", found=num_seeds, allowed=allowed)
    _check_variants(study)
    check_claims(study, None)
    trials: list[Trial] = []
    folders: dict[str, Path] = {}  # by config: equal ones are trained once
    trial_at: dict[tuple[Place, int], Trial] = {}
    for variant in study.variants:
        make_components(variant.config)
        for index in range(num_seeds):
            config = from_dict(ExperimentConfig, to_dict(variant.config))
            config.seed += index
            config.data.split_seed += index // study.seeds_per_split
            config.log.tensorboard = False
            source = None
            if variant.source is not None and config.transfer is not None:
                source = trial_at[variant.source, index]
                config.transfer.source = str(source.workdir.resolve())
            own = folder / RUNS / _slug(variant) / f"seed{config.seed}"
            workdir = folders.setdefault(json.dumps(to_dict(config), sort_keys=True), own)
            completes = has_checkpoints(workdir) and config.transfer is not None  # as the run did
            if lines := changes_since(workdir, complete_config(config) if completes else config):
                raise WorkdirError(
                    f"{folder} holds trainings of an earlier version of this study; in {workdir}:\n"
                    f"{lines}\nGive the new version another --workdir, or delete {workdir.parent}.",
                    where="--workdir",
                    found=str(folder),
                )
            trial = Trial(variant, config.seed, freeze(config), workdir, source)
            trial_at[(variant.series, variant.x), index] = trial
            trials.append(trial)
    return trials


def check_claims(study: Study, computed: Sequence[Record] | None) -> None:
    """Refuses claims and panels of what the study will not measure, before anything is trained.

    Where the records of its computations are still to come (None), those that may be about them are
    left alone.

    Raises:
        ConfigError: a measure, series or place that there will not be, or seeds that do not meet.
    """
    places = _places(study, computed or ())
    pending = computed is None and bool(study.computations)
    for shown in (*study.claims, *study.panels):
        if pending and shown.measure not in places:
            continue
        where = "panels" if isinstance(shown, Panel) else "claims"
        known = lookup(places, shown.measure, "measure in this study", where)
        kind = f"series of {shown.measure!r} in this study"
        if isinstance(shown, Panel):
            for name in shown.series or ():
                lookup(known, name, kind, where)
            continue
        if study.seeds_per_split > 1 and shown.measure in study.measures:
            raise ConfigError(
                f"The claim {shown.text!r} is about single trainings, of which "
                f"{study.seeds_per_split} share their images and are not independent; set "
                "seeds_per_split to 1.",
                where="seeds_per_split",
                found=study.seeds_per_split,
            )
        pair = isinstance(shown, Comparison)
        for series, x in (shown.larger, shown.smaller) if pair else (shown.place,):
            xs = lookup(known, series, kind, where)
            if xs and x not in xs:
                raise nothing_at(shown.measure, (series, x), [(series, other) for other in xs])
        if pair:
            _check_seeds(study, shown)


def check_data(study: Study, trials: Sequence[Trial], log: Callable[[str], None]) -> None:
    """Opens the data, and refuses what they lack before anything is trained.

    Raises:
        CnnLabError: too few examples for a measure, or data that changed since the first training.
    """
    open_once = functools.cache(functools.partial(open_dataset, progress=log))
    checked: set[str] = set()
    unseen = bool(study.over_seeds) or any(MEASURES[name].unseen for name in study.measures)
    for trial in trials:
        data = trial.config.data
        dataset = open_once(data.name, data.data_dir)
        found = dataset.info.fingerprint
        if read_record(trial.workdir).get("fingerprint", found) != found:
            raise WorkdirError(
                f"The data of {data.name} changed since {trial.workdir} was trained; bring the old "
                "data back, or give the study another --workdir.",
                where=str(trial.workdir),
                found=data.name,
            )
        if trial.variant.name in checked:
            continue
        checked.add(trial.variant.name)
        _, validation = choose_examples(dataset, data)
        needing = [name for name in study.measures if MEASURES[name].validation]
        if needing and not len(validation):
            raise ConfigError(
                f"The study measures {needing[0]!r}, but {trial.variant.name!r} holds nothing "
                "out; set its config.data.num_validation above 0, or leave the measure out.",
                where="config.data.num_validation",
                found=data.num_validation,
            )
        if unseen:
            unseen_positions(dataset, data)


def _check_variants(study: Study) -> None:
    earlier: set[Place] = set()
    slugs: dict[str, Place] = {}
    for variant in study.variants:
        place = (variant.series, variant.x)
        if variant.source is not None and variant.config.transfer is None:
            raise ConfigError(
                f"The variant at {place} has a source, but its config has no transfer; set it.",
                where="config.transfer",
                found=place,
            )
        if variant.source is not None and variant.source not in earlier:
            raise ConfigError(
                f"The source of the variant at {place} is {variant.source}, which no variant "
                "before it is at; put that one first.",
                where="source",
                found=variant.source,
            )
        if place in earlier:
            raise ConfigError(
                f"The study has two variants at {place}; give each its own place.",
                where="variants",
                found=place,
            )
        earlier.add(place)
        other = slugs.setdefault(_slug(variant), place)
        if other != place:
            raise ConfigError(
                f"The variants at {other} and {place} would share the folder {_slug(variant)!r}; "
                "name them apart by letters and digits.",
                where="variants",
                found=place,
            )


def _check_seeds(study: Study, claim: Comparison) -> None:
    seeds: dict[tuple[str, float | str | None], tuple[int, int]] = {}
    for variant in study.variants:
        first = (variant.config.seed, variant.config.data.split_seed)
        seeds[variant.series, variant.x] = seeds[variant.name, None] = first
    found = {
        seeds.get((series, x), seeds.get((series, None)))
        for series, x in (claim.larger, claim.smaller)
    }
    if None not in found and len(found) > 1:
        raise ConfigError(
            f"The claim {claim.text!r} compares trainings seed by seed, but config.seed and "
            f"config.data.split_seed of its two variants are {' and '.join(map(str, found))}; give "
            "both the same.",
            where="claims",
            found=claim.text,
        )


def _places(
    study: Study, computed: Sequence[Record]
) -> dict[str, dict[str, list[float | str | None]]]:
    """Measure to series to places; none where they cannot be known beforehand."""
    found: dict[str, dict[str, list[float | str | None]]] = {}
    for variant in study.variants:
        own: Mapping[str, Sequence[float | None]] = {
            **{name: MEASURES[name].levels(variant.config) for name in study.measures},
            **{name: OVER_SEEDS[name].levels(study.seeds_per_split) for name in study.over_seeds},
        }
        for name, levels in own.items():
            series = place_of(variant, None if levels == (None,) else 0)[0]
            places = found.setdefault(name, {}).setdefault(series, [])
            places += [place_of(variant, level)[1] for level in levels]
    for record in computed:
        found.setdefault(record.measure, {}).setdefault(record.series, []).append(record.x)
    return found


def _slug(variant: Variant) -> str:
    return re.sub(r"[^a-zA-Z0-9.]+", "_", variant.name).strip("_").lower()
