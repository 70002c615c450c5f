"""The program `cnn-lab COMMAND [FLAGS]`: help, the command, and how it ends.

A mistake of the user's ends it with one sentence on standard error and status 2.
"""

import contextlib
import importlib
import os
import sys
import threading
from collections.abc import Sequence
from importlib import metadata

from cnn_lab.cli import joining, runtime
from cnn_lab.cli.flags import Flag, parse
from cnn_lab.core.compilation_cache import COMPILING
from cnn_lab.core.errors import (
    LOST_STATUS,
    CheckpointError,
    CnnLabError,
    ConfigError,
    LostError,
    SystemLimitError,
    explain_system_error,
)

USAGE_STATUS = 2
HELP, GLOBAL_FLAGS = ("-h", "--help", "-help"), ("--help", "--version")
COMMANDS = {
    "train": "train a network from an experiment file, or resume the run in its workdir",
    "finetune": "train a network further on other data, from the weights of a run",
    "lr-find": "a learning rate for an experiment, by a short training, with a picture",
    "study": "trainings over seeds, a figure, and claims held against the numbers",
    "evaluate": "metrics of a trained run on the validation or the test split",
    "soup": "one run from the mean of several runs' or checkpoints' weights",
    "predict": "the most probable classes of image files",
    "summary": "layers, parameters, multiply-accumulates, memory and energy of a model",
    "list": "models, optimizers, schedules, ... and their options; datasets, experiments",
    "data": "prepare and check data sets, show their images and augmentation",
    "import-weights": "a run from weights of torchvision or timm",
    "lineage": "which weights a run began with, and what was trained of them",
    "export-weights": "the weights of a run, for torchvision or timm",
}


def run() -> None:
    """Entry point of the console script."""
    runtime.exit_on_signal()
    status, at_once = _outcome(sys.argv[1:])
    # An orderly exit would wait for a compilation that nobody needs any more.
    if at_once or any(thread.name == COMPILING for thread in threading.enumerate()):
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit status."""
    return _outcome(arguments)[0]


def _outcome(arguments: Sequence[str]) -> tuple[int, bool]:
    """Exit status of a command, and whether an orderly exit would do more harm than good.

    After an interruption a compilation may go on behind: one would wait half a minute for it and
    crash. Where the computer refuses files or memory, libraries fail once more when they tidy up. A
    thread may still wait for processes that never came.
    """
    try:
        status = _main(list(arguments))
        sys.stdout.flush()  # here, since a reader that is gone makes Python's own flush a traceback
        for processes in joining.joined:
            processes.leave()
        return status, False
    except CnnLabError as error:
        status = LOST_STATUS if isinstance(error, LostError) else USAGE_STATUS
        follows = isinstance(error, LostError | CheckpointError)
        joining.end(f"error: {error}\n", str(error), status, follows=follows)
        return status, isinstance(error, SystemLimitError | LostError)
    except KeyboardInterrupt as interrupt:
        reason = str(interrupt) or "what was saved before is intact"
        message = f"\ninterrupted; {reason}.\n"
        joining.end(message, "it was interrupted", runtime.early_status)
        return runtime.early_status, True
    except Exception as error:
        if isinstance(error, BrokenPipeError) and runtime.drop_unread():
            return runtime.UNREAD_STATUS, False
        sentence = explain_system_error(error)
        if sentence is None:
            for processes in joining.joined:
                processes.end_after(error)
            raise
        joining.end(f"error: {sentence}\n", sentence, USAGE_STATUS, follows=True)
        return USAGE_STATUS, True


def _main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in HELP or arguments == ["help"]:
        sys.stdout.write(_overview())
        return 0
    if arguments[0] in ("--version", "-version"):
        sys.stdout.write(_versions())
        return 0
    name, rest = arguments[0], arguments[1:]
    if name == "help":
        if rest[0] == "config":
            from cnn_lab.cli.reference import config_help

            sys.stdout.write(config_help(*rest[1:2]))
            return 0
        name, rest = rest[0], ["--help"]
    if name.startswith("-"):
        raise ConfigError(
            f"There is no flag {name!r} before a command",
            found=name,
            allowed=GLOBAL_FLAGS,
            advice="other flags follow the command",
        )
    if name not in COMMANDS:
        raise ConfigError(f"There is no command {name!r}", found=name, allowed=COMMANDS)
    module = importlib.import_module(f"cnn_lab.cli.commands.{name.replace('-', '_')}")
    if any(word in (*HELP, "--helpfull") for word in rest):
        sys.stdout.write(_help(name, module.__doc__ or "", module.FLAGS))
        return 0
    # Whether it takes words beside flags.
    takes_arguments = getattr(module, "TAKES_ARGUMENTS", False)
    return module.main(parse(name, module.FLAGS, rest, takes_arguments=takes_arguments))


def _overview() -> str:
    commands = "\n".join(f"  cnn-lab {name:<16}{text}" for name, text in COMMANDS.items())
    return f"""cnn-lab: train and study convolutional networks in JAX.

{commands}
  cnn-lab help COMMAND shows flags and examples,
  cnn-lab help config [BRANCH] every field of the config with its default,
  cnn-lab --version the version.

Start with:  cnn-lab train --config=experiments/digits/lenet5.py
"""


def _versions() -> str:
    """The versions of cnn-lab, jax and flax, found without importing any of them."""
    found = {}
    for name in ("cnn-lab", "jax", "flax"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:  # run from its source folder
            found[name] = "(not installed)"
    return f"cnn-lab {found['cnn-lab']}, jax {found['jax']}, flax {found['flax']}\n"


def _help(name: str, description: str, flags: Sequence[Flag]) -> str:
    lines = [f"cnn-lab {name}", "", description.strip()]
    lines += ["", "Flags:"] if flags else []
    for flag in flags:
        default = "" if flag.default is None else f" (default: {flag.default})"
        lines.append(f"  --{flag.name:<18} {flag.help}{default}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    run()
