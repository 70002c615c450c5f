"""Runs a study: trainings over seeds, a figure, and claims held against the numbers.

A study is a file with a `get_study()`: one of your own, or one that ships, by its name. The same
command again goes on where it was interrupted, and trains, computes and measures nothing twice.

Examples:
  cnn-lab study                          # which there are
  cnn-lab study polynomial
  cnn-lab study regularisers --seeds=5 --workdir=runs/regularisers
  cnn-lab study transfer --data=folder:cifar10
"""

import shlex
import textwrap
from pathlib import Path

from cnn_lab.cli import runtime
from cnn_lab.cli.flags import Flag, Invocation
from cnn_lab.cli.runtime import log_if_read as log
from cnn_lab.config import DataConfig
from cnn_lab.config.experiments import study_files
from cnn_lab.config.load import anchor_paths, load_study
from cnn_lab.config.values import Count
from cnn_lab.core.errors import ConfigError

TAKES_ARGUMENTS = True
SIGNS = {"holds": "+", "fails": "-", "undecided": "?"}
FLAGS = (
    Flag("workdir", "folder of the study; runs/studies/NAME by default"),
    Flag("data", "data set in place of the study's own, where it takes one"),
    Flag("seeds", "trainings of each variant; the study says by default", Count),
)


def main(invocation: Invocation) -> int:
    """Trains, measures and draws, and prints the verdicts on the claims."""
    names, values = invocation.arguments, invocation.flags
    if not names:
        for name, path in study_files().items():
            log(f"{name:<16} {load_study(str(path))[1].title}")
        return 0
    if len(names) > 1:
        problem = f"study takes one name; found {' '.join(names)!r}."
        raise ConfigError(problem, found=names, allowed="one name")
    data = values.data
    if data is not None:
        anchored = DataConfig(name=data)
        anchor_paths(anchored)  # it means the same from any folder
        data = anchored.name
    name, study = load_study(names[0], data)
    num_seeds = study.num_seeds if values.seeds is None else values.seeds
    if values.seeds is not None and not study.variants:
        problem = f"{name} trains nothing, and its seeds are fixed; leave out --seeds."
        raise ConfigError(problem, where="--seeds", found=values.seeds)
    runtime.start(None)
    from cnn_lab.report.study import write_study
    from cnn_lab.study.checks import make_trials
    from cnn_lab.study.run import claim_folder, run_study

    folder = Path(values.workdir or Path("runs", "studies", name))
    make_trials(study, folder, num_seeds)  # refuses mistakes
    claim_folder(folder, name)
    log(study.title)
    result = run_study(study, folder, num_seeds, log)
    if result is None:
        given = [(flag, values[flag].value) for flag in ("data", "seeds", "workdir")]
        again = ["cnn-lab", "study", names[0]]
        again += [f"--{flag}={value}" for flag, value in given if value is not None]
        log("Interrupted; everything is saved. Go on with:")
        log(f"  {shlex.join(again)}")
        return 0
    report = write_study(folder, study, result.records, result.verdicts)
    for verdict in result.verdicts:
        log(f"{SIGNS[verdict.verdict]} {verdict.verdict:<9}  {verdict.text}")
        log(textwrap.indent(verdict.evidence, " " * 13))
    log(f"  numbers  {folder / 'results.csv'}")
    log(f"  picture  {report.beside}")
    log(f"  page     {report.page}")
    return 0
