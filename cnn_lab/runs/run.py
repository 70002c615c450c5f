"""One run, from a config and a working directory to checkpoints, metrics and a page."""

import functools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from cnn_lab.config import ExperimentConfig
from cnn_lab.core.errors import WorkdirError
from cnn_lab.core.refusals import refusals_told
from cnn_lab.data.datasets.catalog import open_dataset
from cnn_lab.distributed.consistency import check_same, check_same_data
from cnn_lab.distributed.processes import SINGLE_PROCESS, Processes
from cnn_lab.experiment.build import build
from cnn_lab.experiment.components import make_components
from cnn_lab.experiment.initialization import adopt, check_same_source
from cnn_lab.runs.trainer import Surroundings
from cnn_lab.runs.training import Result, train_in
from cnn_lab.train.loop import Progress
from cnn_lab.workdir.metric_writers import MetricWriter, require_wandb
from cnn_lab.workdir.preemption import StopSignals
from cnn_lab.workdir.run_dir import has_checkpoints, missing_checkpoints, read_record
from cnn_lab.workdir.secondary_process import open_workdir

ENDED = ("finished", "stopped early", "averaged")


def run_training(
    config: ExperimentConfig,
    workdir: Path,
    log: Callable[[str], None],
    metric_writers: Sequence[MetricWriter] = (),
    processes: Processes = SINGLE_PROCESS,
    profile_steps: tuple[int, int] | None = None,
) -> Result:
    """Trains what `config` describes in `workdir`, from the newest checkpoint there.

    Args:
        config: the experiment.
        workdir: the run's folder, made when missing.
        log: takes lines for the user.
        metric_writers: where metric rows go besides the ones that the config asks for.
        processes: that train together, all of which call this alike.
        profile_steps: updates made when a trace begins and when it ends.

    Raises:
        CnnLabError: anything that the user can mend; nothing already saved is lost.
    """
    if config.log.wandb_project is not None:
        require_wandb()
    config = adopt(config)
    make_components(config)  # a typo is no difference to the config that the folder was made with
    with refusals_told(workdir), ExitStack() as stack:
        folder = open_workdir(processes, workdir, config)
        stack.callback(folder.release)
        signals = stack.enter_context(StopSignals())
        record = processes.broadcast({} if folder.fresh else read_record(workdir))
        if record and not processes.broadcast(has_checkpoints(workdir)):
            raise missing_checkpoints(workdir)
        check_same_source(config, record.get("transfer"), workdir, processes)
        if record.get("status") in ENDED:
            return Result(record["status"], Progress.from_json(record["progress"]), ran=False)
        open_data = functools.partial(open_dataset, progress=log)
        experiment = build(config, open_data, lineage=record.get("transfer"))
        for loader in experiment.loaders():
            stack.callback(loader.close)
        check_same_data(processes, experiment.fingerprint)
        if experiment.beginning is not None:
            digest = experiment.beginning.lineage["digest"]
            remedy = "let all of them read the same source, or copies of it"
            check_same(processes, {"source of its weights": digest}, remedy)
        if record.get("fingerprint", experiment.fingerprint) != experiment.fingerprint:
            raise WorkdirError(
                f"The data of {config.data.name} changed since {workdir} was begun; bring the old "
                "data back or give another --workdir."
            )
        loader = experiment.train_loader.name
        begun = record.get("loader", loader)
        if experiment.named.augmentation.crops and begun != loader:
            raise WorkdirError(
                f"{workdir} was begun with config.data.loader={begun}, which draws other random "
                f"crops than {loader}; go on with {begun}, or give another --workdir."
            )
        around = Surroundings(processes, folder, log, metric_writers, signals, profile_steps)
        return train_in(around, experiment, stack)
