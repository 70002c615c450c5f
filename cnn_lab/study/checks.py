"""The trials of a study, and every mistake in it that can be found before any of them runs."""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from cnn_lab.analysis.verdict import Record, nothing_at
from cnn_lab.config import Comparison, ExperimentConfig, Place, Study, Variant
from cnn_lab.config.node import freeze, from_dict, to_dict
from cnn_lab.config.values import check_options
from cnn_lab.core.errors import ConfigError, WorkdirError, lookup
from cnn_lab.data.datasets.catalog import Dataset, open_dataset
from cnn_lab.data.subsets import choose_examples
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.initialization import complete_config
from cnn_lab.study.computations import COMPUTATIONS
from cnn_lab.study.measures import MEASURES, OVER_SEEDS, unseen_positions
from cnn_lab.study.trial import Trial, place_of
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
        lookup(MEASURES, name, "measure")
    for name in study.over_seeds:
        lookup(OVER_SEEDS, name, "measure over seeds")
    for computation in study.computations:
        function = lookup(COMPUTATIONS, computation.name, "computation")
        check_options(function, computation.options, f"computation {computation.name}")
    if study.seeds_per_split < 1 or num_seeds % study.seeds_per_split:
        raise ConfigError(
            f"The study groups its seeds by {study.seeds_per_split}, of which {num_seeds} seeds "
            "are no multiple; give --seeds one."
        )
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
            _check_folder(folder, workdir, config)
            trial = Trial(variant, config.seed, freeze(config), workdir, source)
            trial_at[(variant.series, variant.x), index] = trial
            trials.append(trial)
    return trials


def check_claims(study: Study, computed: Sequence[Record] | None) -> None:
    """Refuses claims and panels of what the study will not measure, before anything is trained.

    Args:
        study: its variants and measures.
        computed: the records of its computations; None where these are still to come, and then
            claims that may be about them are left alone.

    Raises:
        ConfigError: a measure, series or place that there will not be, or seeds that do not meet.
    """
    places = _places(study, computed or ())
    pending = computed is None and bool(study.computations)
    for claim in study.claims:
        if pending and claim.measure not in places:
            continue
        known = lookup(places, claim.measure, "measure in this study")
        if study.seeds_per_split > 1 and claim.measure in study.measures:
            raise ConfigError(
                f"The claim {claim.text!r} is about single trainings, of which "
                f"{study.seeds_per_split} share their images and are not independent; set "
                "seeds_per_split to 1."
            )
        pair = isinstance(claim, Comparison)
        for place in (claim.larger, claim.smaller) if pair else (claim.place,):
            xs = lookup(known, place[0], f"series of {claim.measure!r} in this study")
            if xs and place[1] not in xs:
                raise nothing_at(claim.measure, place, [(place[0], x) for x in xs])
        if pair:
            _check_seeds(study, claim)
    for panel in study.panels:
        if pending and panel.measure not in places:
            continue
        known = lookup(places, panel.measure, "measure in this study")
        for name in panel.series or ():
            lookup(known, name, f"series of {panel.measure!r} in this study")


def check_data(study: Study, trials: Sequence[Trial], log: Callable[[str], None]) -> None:
    """Opens the data, and refuses what they lack before anything is trained.

    Args:
        study: its measures.
        trials: its trainings.
        log: takes lines about downloads.

    Raises:
        CnnLabError: too few examples for a measure, or data that changed since the first training.
    """
    datasets: dict[tuple[str, str | None], Dataset] = {}
    checked: set[str] = set()
    unseen = bool(study.over_seeds) or any(MEASURES[name].unseen for name in study.measures)
    for trial in trials:
        data = trial.config.data
        key = (data.name, data.data_dir)
        if key not in datasets:
            datasets[key] = open_dataset(*key, progress=log)
        found = datasets[key].info.fingerprint
        if read_record(trial.workdir).get("fingerprint", found) != found:
            raise WorkdirError(
                f"The data of {data.name} changed since {trial.workdir} was trained; bring the old "
                "data back, or give the study another --workdir."
            )
        if trial.variant.name in checked:
            continue
        checked.add(trial.variant.name)
        _, validation = choose_examples(datasets[key], data)
        needing = [name for name in study.measures if MEASURES[name].validation]
        if needing and not len(validation):
            raise ConfigError(
                f"The study measures {needing[0]!r}, but {trial.variant.name!r} holds nothing "
                "out; set its config.data.num_validation above 0, or leave the measure out."
            )
        if unseen:
            unseen_positions(datasets[key], data)


def _check_variants(study: Study) -> None:
    places = Counter((variant.series, variant.x) for variant in study.variants)
    earlier: set[Place] = set()
    for variant in study.variants:
        if variant.source is not None and variant.config.transfer is None:
            raise ConfigError(
                f"The variant at {(variant.series, variant.x)} has a source, but its config has no "
                "transfer; set it."
            )
        if variant.source is not None and variant.source not in earlier:
            raise ConfigError(
                f"The source of the variant at {(variant.series, variant.x)} is "
                f"{variant.source}, which no variant before it is at; put that one first."
            )
        earlier.add((variant.series, variant.x))
    if twice := [place for place, count in places.items() if count > 1]:
        raise ConfigError(f"The study has two variants at {twice[0]}; give each its own place.")
    slugs: dict[str, Variant] = {}
    for variant in study.variants:
        other = slugs.setdefault(_slug(variant), variant)
        if other is not variant:
            raise ConfigError(
                f"The variants at {(other.series, other.x)} and {(variant.series, variant.x)} "
                f"would share the folder {_slug(variant)!r}; name them apart by letters and digits."
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
            "both the same."
        )


def _places(
    study: Study, computed: Sequence[Record]
) -> dict[str, dict[str, list[float | str | None]]]:
    """Measure to series to places; none where they cannot be known beforehand."""
    found: dict[str, dict[str, list[float | str | None]]] = {}
    for variant in study.variants:
        own: Mapping[str, Sequence[float | None]] = {
            **{name: levels_of(name, variant.config) for name in study.measures},
            **{name: OVER_SEEDS[name].levels(study.seeds_per_split) for name in study.over_seeds},
        }
        for name, levels in own.items():
            series = place_of(variant, None if levels == (None,) else 0)[0]
            places = found.setdefault(name, {}).setdefault(series, [])
            places += [place_of(variant, level)[1] for level in levels]
    for record in computed:
        found.setdefault(record.measure, {}).setdefault(record.series, []).append(record.x)
    return found


def levels_of(measure: str, config: ExperimentConfig) -> tuple[float | None, ...]:
    """Levels at which a training of `config` is measured, None standing for no level."""
    levels = MEASURES[measure].levels
    return (None,) if levels is None else levels(config)


def _check_folder(study_folder: Path, workdir: Path, config: ExperimentConfig) -> None:
    """Refuses the folder of a run of another config, as there is one after a study was edited."""
    if has_checkpoints(workdir) and config.transfer is not None:
        config = complete_config(config)  # as the run did
    if lines := changes_since(workdir, config):
        raise WorkdirError(
            f"{study_folder} holds trainings of an earlier version of this study; in {workdir}:\n"
            f"{lines}\nGive the new version another --workdir, or delete {workdir.parent}."
        )


def _slug(variant: Variant) -> str:
    return re.sub(r"[^a-zA-Z0-9.]+", "_", variant.name).strip("_").lower()
