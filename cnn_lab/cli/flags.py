"""The flags of a command: how they are declared, and how a command line is read.

A flag's value passes the same typed check as a field of the config (`cnn_lab.config.values`), and
so does `--config.a.b=value`. `ml_collections.config_flags` offers that syntax too, but cannot set
an optional back to none, does not check tuple entries, and answers a misspelt field with a
traceback.
"""

import dataclasses
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from absl import flags

from cnn_lab.config import ExperimentConfig
from cnn_lab.config.imports import import_modules
from cnn_lab.config.load import load_config
from cnn_lab.config.node import annotation_at
from cnn_lab.config.values import alternatives, parse_text
from cnn_lab.core.errors import ConfigError

PREFIX = "--config."


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag of a command.

    Attributes:
        name: without its dashes.
        help: its meaning, for `--help`.
        kind: annotation of its value, like a config field's; `bool` for a switch that is off by
            default, `list` for texts by a flag that may be repeated.
        default: its value where it is left out.
        needed: advice to whoever left it out, where it must be given.
        advice: a remark that follows, in parentheses, on a value that does not fit.
    """

    name: str
    help: str
    kind: Any = str
    default: Any = None
    needed: str = ""
    advice: str = ""


CONFIG = Flag("config", "experiment FILE.py[:ARGUMENT] or NAME[:ARGUMENT], or a run's config.json")
IMPORTS = Flag(
    "imports",
    "modules of your own, between commas, that register models, losses, ... (config.imports)",
    tuple[str, ...],
)
CHECKPOINT = Flag("checkpoint", "best, latest or a step", default="best")
CHECKPOINTS = Flag(
    "checkpoint",
    "best, latest or a step; of one run also several between commas, or all",
    default="best",
)
OPTIONS = Flag("option", "NAME=VALUE of the model", list)
WORKDIR = Flag("workdir", "folder of the run", needed="give the folder of a trained run")
WORKDIRS = Flag(
    "workdir",
    "folder of the run; a pattern such as 'runs/seed*', or several folders between commas",
    needed="give the folder of a trained run",
)


@dataclasses.dataclass(frozen=True)
class Invocation:
    """A parsed command line.

    Attributes:
        flags: values by the flags' names, as attributes.
        arguments: the words that are no flags.
        overrides: (path, text) of every `--config.a.b=value`.
    """

    flags: flags.FlagValues
    arguments: list[str]
    overrides: list[tuple[str, str]]


def parse(
    command: str, declared: Sequence[Flag], words: Sequence[str], *, takes_arguments: bool = False
) -> Invocation:
    """Reads a command line.

    Raises:
        ConfigError: a flag that is unknown, missing, given twice (other than a list) or has a value
            that does not fit; words that are no flags where the command takes none.
    """
    overrides, rest = split_overrides(words)
    values = flags.FlagValues()
    if overrides and CONFIG.name not in [flag.name for flag in declared]:
        where = f"{PREFIX}{overrides[0][0]}"
        raise ConfigError(f"{command} takes no --config.* overrides; found {where}.", where=where)
    for flag in declared:
        if flag.kind is bool:
            flags.DEFINE_bool(flag.name, False, flag.help, flag_values=values)
        elif flag.kind is list:
            flags.DEFINE_multi_string(flag.name, [], flag.help, flag_values=values)
        else:
            flags.DEFINE_string(flag.name, None, flag.help, flag_values=values)
    try:
        arguments = values([command, *rest])[1:]
    except flags.UnrecognizedFlagError as error:
        where, known = f"--{error.flagname}", [f"--{known}" for known in values]
        raise ConfigError(f"{command} has no flag {where}", found=where, allowed=known) from None
    except flags.IllegalFlagValueError as error:  # of a switch: all others take any text
        where, _, text = str(error).removeprefix("flag ").partition(": ")[0].partition("=")
        raise ConfigError(where=where, found=text, allowed="true or false") from None
    except flags.Error as error:
        raise ConfigError(f"{error}; see cnn-lab help {command}.") from None
    if arguments and not takes_arguments:
        problem = f"{command} takes flags only; found {arguments[0]!r}"
        hint = _hint(arguments[0], values)
        raise ConfigError(f"{problem}{hint or '.'}", found=arguments[0])
    for flag in declared:
        given, where = values[flag.name], f"--{flag.name}"
        if given.present > 1 and flag.kind is not list:
            raise ConfigError(f"{where} is given {given.present} times; give it once.", where=where)
        if given.value == "":
            problem = f"{where}= is empty; give it a value, or leave it out."
            raise ConfigError(problem, where=where, found="")
        if flag.needed and given.value is None:
            raise ConfigError(f"{where} is missing: {flag.needed}.", where=where)
        if flag.kind not in (bool, list):
            given.value = _value(flag, given.value)
    return Invocation(values, arguments, overrides)


def _value(flag: Flag, text: str | None) -> Any:
    """The value that a flag's text stands for, or its default where there is none."""
    if text is None:
        return flag.default
    try:
        return parse_text(text, flag.kind, f"--{flag.name}")
    except ConfigError as error:
        if not flag.advice:
            raise
        raise error.advised(flag.advice) from None


def _hint(word: str, values: flags.FlagValues) -> str:
    """The flag that a word was meant for, as far as the word shows it."""
    is_folder, is_config = False, word.endswith(".json") or word.partition(":")[0].endswith(".py")
    if is_config and CONFIG.name in values:
        return f": did you mean --config={word}?"
    with suppress(OSError):  # such as a name that is too long
        is_folder = Path(word).is_dir()
    if is_folder and WORKDIR.name in values:
        return f": did you mean --workdir={word}? Several go between commas, or as a pattern."
    return ""


def split_overrides(arguments: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """(path, text) of each `--config.a.b=value` or `--config.a.b value`, and all other arguments.

    Raises:
        ConfigError: an override without a value.
    """
    overrides, rest, position = [], [], 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if argument == "--":
            rest += arguments[position - 1 :]
            break
        name = argument if argument.startswith("--") else f"-{argument}"
        if not name.startswith(PREFIX):
            rest.append(argument)
            continue
        path, equals, text = name[len(PREFIX) :].partition("=")
        flag = f"{PREFIX}{path}"
        if not equals and bool in alternatives(annotation_at(ExperimentConfig, path)):
            text = "true"
        elif not equals:
            if position == len(arguments) or arguments[position].startswith("--"):
                raise ConfigError(f"{flag} needs a value: {flag}=VALUE.", where=flag)
            text = arguments[position]
            position += 1
        if not text:
            raise ConfigError(
                f"{flag}= is empty; give it a value, or leave it out (`none` clears an optional "
                "field).",
                where=flag,
                found="",
            )
        overrides.append((path, text))
    return overrides, rest


def imported_config(invocation: Invocation) -> ExperimentConfig | None:
    """The config of `--config`, None without; what it and `--imports` name has been imported.

    Raises:
        ConfigError: it cannot be loaded, or a module not be imported.
    """
    values = invocation.flags
    import_modules(values.imports or (), where=f"--{IMPORTS.name}")
    return load_config(values.config, invocation.overrides) if values.config else None


def parse_shape(text: str, usual: tuple[int, ...]) -> tuple[int, ...]:
    """The sizes in `224x224x3` of `--input`."""
    parts = text.lower().split("x")
    if len(parts) != len(usual) or not all(p.isdecimal() and int(p) > 0 for p in parts):
        sizes = f"{len(usual)} sizes such as {'x'.join(map(str, usual))}"
        raise ConfigError(where="--input", found=text, allowed=sizes)
    return tuple(map(int, parts))


def output_file(out: str, suffix: str) -> Path:
    """The file that `--out` names.

    Raises:
        ConfigError: its name ends otherwise, or its folder is not there.
    """
    path, folder = Path(out), Path(out).absolute().parent
    if path.suffix != suffix:
        raise ConfigError(where="--out", found=out, allowed=f"a file that ends in {suffix}")
    if not folder.is_dir():
        problem = f"--out={out}: there is no folder {folder}; make it first."
        raise ConfigError(problem, where="--out", found=out)
    return path
