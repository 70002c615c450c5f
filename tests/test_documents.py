"""README, the notes and the guides: links hold, commands are known, and what they show runs."""

import importlib
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from refusals import refused

import cnn_lab
from cnn_lab.cli import runtime
from cnn_lab.cli.commands.list import KINDS
from cnn_lab.cli.flags import Invocation, parse
from cnn_lab.cli.main import COMMANDS, main
from cnn_lab.cli.reference import config_help
from cnn_lab.config import ExperimentConfig
from cnn_lab.config.experiments import study_files
from cnn_lab.config.load import load_config
from cnn_lab.config.node import override
from cnn_lab.core.errors import ConfigError
from cnn_lab.data.augment.extra import AUGMENTATIONS
from cnn_lab.data.datasets.description import DATASETS
from cnn_lab.models.registry import MODELS
from cnn_lab.optim.optimizers import OPTIMIZERS
from cnn_lab.optim.schedules import SCHEDULES
from cnn_lab.tasks.losses import LOSSES
from cnn_lab.tasks.task import TASKS

ROOT = Path(__file__).parents[1]
PLACES = (ROOT, ROOT / "cnn_lab", ROOT / "tests")
GUIDES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
DOCUMENTS = [*GUIDES, "BUILD_NOTES.md", "launch/README.md"]
REGISTRIES = (AUGMENTATIONS, DATASETS, LOSSES, MODELS, OPTIMIZERS, SCHEDULES, TASKS)

FILE = re.compile(r"`((?:[a-z_]\w*/)+[a-z_]\w*\.(?:py|sh|yaml|jinja|md))`")
BLOCK = re.compile(r"^```(\S+) ?(.*)\n([\s\S]*?)^```$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FILE_OF_BLOCK = re.compile(r"# ([\w/]+\.py)\n")
OF_THIS_REPOSITORY, OTHERS = {"python", "sbatch"}, {"docker", "export", "kubectl", "mkdir"}
TRAINS = {"train", "finetune"}
SHORT = ("--config.train.num_epochs=2",)


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def commands_in(code: str) -> list[list[str]]:
    """The words of each command of a shell block, without comments."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def settings_of(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """The environment variables that a command sets before itself, and the command."""
    settings, rest = {}, list(words)
    while re.match(r"[A-Z_]+=", rest[0]):
        name, _, settings[name] = rest.pop(0).partition("=")
    return settings, rest


# Links


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", BLOCK.sub("", text), flags=re.MULTILINE):
        base = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeats = (f"{base}-{number}" for number in range(1, 100))
        found.add(base if base not in found else next(a for a in repeats if a not in found))
    return found


def broken_links(path: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    text = path.read_text(encoding="utf-8")
    prose = re.sub(r"`[^`]*`", "", BLOCK.sub("", text))
    broken = []
    for link in LINK.findall(prose):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        holds = target.exists()
        if holds and anchor:
            holds = anchor in anchors(target.read_text(encoding="utf-8"))
        broken += [] if holds else [link]
    return broken


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_hold(document: str):
    assert broken_links(ROOT / document) == []


def test_a_broken_link_is_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n[a](gone.md) [b](#a-b-c) [c](#d) [d](page.md#e) [e](https://f)\n")
    assert broken_links(page) == ["gone.md", "#d", "page.md#e"]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str):
    named = set(FILE.findall(text_of(document)))
    assert len(named) > 5 or document not in ("BUILD_NOTES.md", "docs/develop.md", "docs/extend.md")
    gone = {name for name in named if not any((place / name).exists() for place in PLACES)}
    assert gone == set(), f"{document} names files that are not there"


def test_readme_leads_to_every_guide():
    links = set(LINK.findall(text_of("README.md")))
    assert set(GUIDES[1:]) <= links
    assert len(GUIDES) > 10


def test_the_guides_show_commands_and_code():  # else nothing is looked at below
    blocks = [block for guide in GUIDES for block in BLOCK.findall(text_of(guide))]
    assert sum(len(commands_in(code)) for language, _, code in blocks if language == "sh") > 80
    assert sum(remark == "run" for _, remark, _ in blocks) > 10
    assert sum(language == "python" for language, _, _ in blocks) > 10


def test_the_guides_speak_of_every_command_and_every_public_name():
    everything = "\n".join(map(text_of, GUIDES))
    assert [name for name in COMMANDS if not re.search(rf"cnn-lab {name}\b", everything)] == []
    assert [n for n in cnn_lab.__all__ if f"`{n}`" not in text_of("docs/python.md")] == []


# Commands


@pytest.fixture
def page(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A guide, in a folder that has what it takes as given, and the files that it shows."""
    document: str = request.param
    for name in ("experiments", "launch", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    write_examples(tmp_path)
    for language, _, code in BLOCK.findall(text_of(document)):
        if language == "python" and (name := FILE_OF_BLOCK.match(code)):
            file = tmp_path / name[1]
            file.parent.mkdir(exist_ok=True)
            file.write_text(code)
    monkeypatch.chdir(tmp_path)
    return document


def write_examples(folder: Path) -> None:
    """Photographs of two classes, a table of numbers, and a digit."""
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    rows = ["path,age,height"]
    for index in range(120):
        kind, brightness = ("cat", "dog")[index % 2], index + 60
        pixels = random.integers(0, brightness, (16, 16), np.uint8)
        image = Image.fromarray(pixels).convert("L" if index % 3 else "RGB")
        (folder / "photos" / kind).mkdir(parents=True, exist_ok=True)
        image.save(folder / "photos" / kind / f"{index}.png")
        image.save(folder / "images" / f"{index}.png")
        rows.append(f"images/{index}.png,{index},{1 + index / 50}")
    (folder / "ages.csv").write_text("\n".join(rows) + "\n")
    shutil.copy(ROOT / "experiments" / "digits" / "lenet5.py", folder / "FILE.py")  # anyone's
    Image.fromarray(random.integers(0, 255, (8, 8), np.uint8)).save(folder / "seven.png")


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    """What a guide registers is gone after it."""
    before = [set(registry) for registry in REGISTRIES]
    yield
    for registry, names in zip(REGISTRIES, before, strict=True):
        for name in set(registry) - names:
            del registry[name]


def forget_modules() -> None:
    """The next command is a process of its own."""
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(Path.cwd()):
            del sys.modules[name]


def check_command(words: list[str]) -> None:
    """Raises an error for a command that could not be given."""
    settings, (program, *rest) = settings_of(words)
    if program == "cnn-lab":
        with pytest.MonkeyPatch.context() as patch:
            for folder in settings.get("PYTHONPATH", "").split(":"):
                patch.syspath_prepend(folder)
            check_arguments(*rest)
    elif program == "make":
        for target in rest:
            assert re.search(rf"^{target}:", text_of("Makefile"), re.MULTILINE), target
    elif program == "pip":
        extras = re.findall(r"\[(\w+)\]", " ".join(rest))
        assert [e for e in extras if f"\n{e} = [" not in text_of("pyproject.toml")] == []
    elif program in OF_THIS_REPOSITORY or program.startswith("launch/"):
        check_script([program, *rest])
    else:
        assert program in OTHERS, f"the test knows no {program}"


def check_script(words: list[str]) -> None:
    """Raises an error for a script that is not there, or for flags that it does not know."""
    place = next(i for i, word in enumerate(words) if re.match("launch/|benchmarks/", word))
    script, own = Path(words[place]), words[place + 1 :]
    assert script.is_file(), script
    if "--" in own:
        check_arguments(*own[own.index("--") + 1 :])
        own = own[: own.index("--")]
    elif script.name == "train.sbatch":
        check_arguments("train", *own)
        return
    elif script.name == "tpu_vm.sh" and own[0] == "run":
        check_arguments("train", *own[1:])
        return
    names = [word.partition("=")[0].lstrip("-") for word in own if word.startswith("--")]
    code = script.read_text(encoding="utf-8")
    assert [name for name in names if name not in code] == [], script


def check_arguments(command: str, *words: str) -> None:
    """Raises an error for arguments that `cnn-lab` would refuse."""
    if command == "help":
        assert config_help(*words[1:]) if words[0] == "config" else words[0] in COMMANDS
        return
    if command not in COMMANDS:
        raise ConfigError(found=command, where="cnn-lab", allowed=COMMANDS)
    module = importlib.import_module(f"cnn_lab.cli.commands.{command.replace('-', '_')}")
    takes = getattr(module, "TAKES_ARGUMENTS", False)
    invocation = parse(command, module.FLAGS, list(words), takes_arguments=takes)
    values = invocation.flags
    reference = values.config if "config" in values else None
    if reference and not reference.startswith("runs/"):
        load_config(reference, invocation.overrides)
    else:
        config = ExperimentConfig()
        for path, text in invocation.overrides:
            override(config, path, text)
    check_names(command, invocation)


def check_names(command: str, invocation: Invocation) -> None:
    """Raises an error for models, studies and data that there are not."""
    values, arguments = invocation.flags, invocation.arguments
    own = "imports" in values and values.imports
    if "model" in values and values.model and not own:
        MODELS.lookup(values.model, "--model")
    if command == "study" and arguments:
        assert arguments[0] in study_files()
    if command == "list" and arguments and not own:
        names = KINDS[arguments[0]]()
        assert all(any(fnmatch(name, p) for name in names) for p in arguments[1:]), arguments
    if command == "data":
        assert arguments[0] in ("prepare", "check", "show")
        assert own or arguments[1].partition(":")[0] in {*DATASETS, "folder", "table", "tfds"}


@pytest.mark.parametrize("page", [*GUIDES, "launch/README.md"], indirect=True)
def test_commands_can_be_given(page: str):
    for language, _, code in BLOCK.findall(text_of(page)):
        if language == "sh":
            for words in commands_in(code):
                forget_modules()
                check_command(words)


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("cnn-lab trane --config=mnist/lenet5", {"found": "trane"}),
        ("cnn-lab train --confg=mnist/lenet5", {"found": "--confg"}),
        ("cnn-lab train --config=mnist/lenet6", {"found": "mnist/lenet6"}),
        ("cnn-lab train --config=mnist/lenet5 --config.optim.rate=1", {"found": "rate"}),
        ("cnn-lab train --config=mnist/lenet5 --config.train.num_epochs=x", {"found": "x"}),
        ("cnn-lab finetune --from=runs/a --config.optim.rate=1", {"found": "rate"}),
        ("cnn-lab evaluate", {"where": "--workdir"}),
        ("cnn-lab summary --model=lenet6", {"found": "lenet6"}),
        ("python launch/local.py -- train --confg=a", {"found": "--confg"}),
    ],
)
def test_a_broken_command_of_cnn_lab_is_found(line: str, fields: dict[str, str], monkeypatch):
    monkeypatch.chdir(ROOT)
    with refused(ConfigError, **fields):
        check_command(shlex.split(line))


@pytest.mark.parametrize(
    "line",
    [
        "make tests",
        "pip install '.[cuda11]'",
        "python benchmarks/gone.py",
        "python benchmarks/throughput.py --modell=resnet50",
        "condor_submit FILE.py",
        "cnn-lab list models 'lenot*'",
        "cnn-lab study polynomials",
        "cnn-lab data prepare mnits",
    ],
)
def test_another_broken_command_is_found(line: str, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(AssertionError):
        check_command(shlex.split(line))


# What runs


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `cnn-lab train --config=digits/lenet5`, which guides begin with."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "start", lambda _: None)
        patch.chdir(folder)
        assert main(["train", "--config=digits/lenet5", *SHORT]) == 0
    return folder / "runs"


def run_command(words: list[str]) -> None:
    """Runs a command as a user would, but for the length of trainings."""
    settings, (program, command, *rest) = settings_of(words)
    assert program == "cnn-lab"
    logistic = "--strategy=logistic" in rest  # which no epochs are for
    more = SHORT if command in TRAINS and not logistic else ()
    forget_modules()
    with pytest.MonkeyPatch.context() as patch:
        for folder in filter(None, settings.get("PYTHONPATH", "").split(":")):
            patch.syspath_prepend(folder)
        assert main([command, *rest, *more]) == 0, shlex.join(words)


@pytest.mark.parametrize("page", GUIDES, indirect=True)
def test_what_a_guide_shows_runs(page: str, digits_run: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(runtime, "start", lambda _: None)
    shutil.copytree(digits_run, "runs")
    namespace: dict[str, object] = {"__name__": "guide"}
    for language, remark, code in BLOCK.findall(text_of(page)):
        if language == "python" and not FILE_OF_BLOCK.match(code):
            exec(compile(code, page, "exec"), namespace)
        elif language == "sh" and remark == "run":
            for words in commands_in(code):
                run_command(words)
        else:
            assert remark == "", f"{page}: a block is marked {remark!r}"


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = ROOT / "docs" / "notebook.py"
    exec(compile(file.read_text(), str(file), "exec"), {"__name__": "__main__"})
    assert (tmp_path / "runs" / "lenet5-digits-1" / "report.html").is_file()
    assert len(capsys.readouterr().out.splitlines()) > 15
