"""Makes one run from the mean of several runs' or checkpoints' weights.

Statistics of batch normalisation are measured anew on training images. Good members are
checkpoints of one run, or fine-tunings of one network; the weights of runs from different seeds lie
too far apart, and their predictions are better averaged by `cnn-lab evaluate --ensemble`.

Examples:
  cnn-lab soup --workdir=runs/mnist/lenet5 --checkpoint=all --out=runs/mnist/soup
  cnn-lab soup --workdir='runs/tuned/rate*' --out=runs/tuned/soup
  cnn-lab evaluate --workdir=runs/tuned/soup
"""

import functools
from pathlib import Path

from absl import flags

from cnn_lab.cli import runtime
from cnn_lab.cli.main import Invocation
from cnn_lab.cli.output import log
from cnn_lab.core.errors import ConfigError
from cnn_lab.core.formatting import counted
from cnn_lab.runs.select import find_checkpoints, find_workdirs


def define_flags(values: flags.FlagValues) -> None:
    """Declares the flags of this command."""
    flags.DEFINE_string(
        "workdir", None, "runs: one, several between commas, or a pattern", flag_values=values
    )
    flags.DEFINE_string(
        "checkpoint",
        "best",
        "best, latest, a step; of one run also several between commas, or all",
        flag_values=values,
    )
    flags.DEFINE_string("out", None, "new folder for the run", flag_values=values)


def main(invocation: Invocation) -> int:
    """Averages, measures and writes."""
    values = invocation.flags
    if invocation.arguments:
        raise ConfigError(f"soup takes flags only; found {invocation.arguments[0]!r}.")
    for name in ("workdir", "out"):
        if not getattr(values, name):
            raise ConfigError(f"--{name} is missing; see cnn-lab help soup.")
    workdirs, which = find_workdirs(values.workdir), find_checkpoints(values.checkpoint)
    if len(workdirs) > 1 and (len(which) > 1 or which == ["all"]):
        raise ConfigError(
            "Several checkpoints can be taken of one run only; give one --workdir, or one "
            "--checkpoint."
        )
    runtime.start(None)
    import jax
    import numpy as np

    from cnn_lab.data.datasets.catalog import open_dataset
    from cnn_lab.experiment.initialization import digest_of
    from cnn_lab.experiment.restore import RestoredRun, checkpoint_steps, restore_run
    from cnn_lab.runs import import_weights
    from cnn_lab.runs.soup import cook
    from cnn_lab.workdir.run_dir import lineage_in, read_record

    out = Path(values.out)
    import_weights.require_new(out)
    if which == ["all"]:
        which = [str(step) for step in checkpoint_steps(workdirs[0])]
    # Two names, such as best and latest, may be of one checkpoint.
    found: dict[tuple[Path, int], RestoredRun] = {}
    for workdir in workdirs:
        for name in which:
            member = restore_run(workdir, name)
            found.setdefault((workdir, member.step), member)
    names = [f"{workdir}, checkpoint {step}" for workdir, step in found]
    if len(names) == 1 and len(which) > 1:
        raise ConfigError(
            f"A soup needs at least two networks; --checkpoint={values.checkpoint} of "
            f"{workdirs[0]} is step {next(iter(found))[1]} alone."
        )
    members = list(found.values())
    first = members[0]
    fingerprints = [read_record(workdir).get("fingerprint") for workdir, _ in found]
    soup = cook(members, names, fingerprints, functools.partial(open_dataset, progress=log))
    import_weights.write_run(
        out,
        first.config,
        first.network,
        soup.variables,
        "averaged",
        averaged_from=names,
        members=[
            {
                "name": name,
                "digest": digest_of(jax.tree.map(np.asarray, member.variables)),
                "lineage": lineage_in(read_record(workdir)),
            }
            for name, member, (workdir, _) in zip(names, members, found, strict=True)
        ],
        fingerprint=soup.fingerprint,
    )
    log(f"The mean of {counted(len(members), 'network')}:")
    for name in names:
        log(f"  {name}")
    if soup.num_refit:
        log(f"Statistics measured on {counted(soup.num_refit, 'training batch')}.")
    log(f"Use it by: cnn-lab evaluate --workdir={out}")
    return 0
