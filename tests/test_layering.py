"""Who may import whom: the house's floors, read off the source files."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "cnn_lab").rglob("*.py"))
FLOORS = {
    "core": 0,
    "config": 1,
    "config_rules": 1.5,
    "layers": 2,
    "data": 2,
    "losses": 2,
    "metrics": 2,
    "optim": 2,
}
FLOORS |= {"models": 3, "tasks": 3, "train": 4, "transfer": 5, "tune": 5, "analysis": 5}
FLOORS |= {"resolve": 6.1, "network": 6.2, "trained": 6.3, "beginning": 6.4}
FLOORS |= {"features": 6.41, "experiment": 6.42, "feature_plan": 6.43, "build": 6.5}
FLOORS |= {"compiled": 6.6, "logistic": 6.6, "rate_range": 6.7}
FLOORS |= {
    "phase_runner": 6.75,
    "training": 6.8,
    "run": 7,
    "diverging": 7.1,
    "soup": 7.1,
    "study": 7.2,
    "report": 7.4,
    "cli": 8,
}
NEVER = {"train": {"models", "data"}, "build": {"report"}}
ONLY_IN = {"orbax": "train/checkpoint", "absl.flags": "cli/", "matplotlib": "report/"}
ONLY_IN |= {"jinja2": "report/"}


def imports(path: Path) -> list[str]:
    """Dotted names of all imports in a file, `from a import b` as `a.b`."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def house_of(path: Path) -> str:
    return path.relative_to(ROOT / "cnn_lab").parts[0].removesuffix(".py")


def test_imports_go_down_only():
    edges = [
        (path, house_of(path), name.split(".")[1])
        for path in FILES
        if path.parent != ROOT / "cnn_lab" or path.name != "__init__.py"
        for name in imports(path)
        if name.startswith("cnn_lab.")
    ]
    assert len(edges) > 100  # else nothing was looked at
    bad = [
        f"{path}: imports {to}"
        for path, at, to in edges
        if (at != to and FLOORS[to] >= FLOORS[at]) or to in NEVER.get(at, ())
    ]
    assert bad == []


def test_some_libraries_are_known_in_one_place_only():
    bad = [
        f"{path}: imports {name}"
        for path in FILES
        for name in imports(path)
        for library, place in ONLY_IN.items()
        if f"{name}.".startswith(f"{library}.")
        and not path.relative_to(ROOT / "cnn_lab").as_posix().startswith(place)
    ]
    assert bad == []


def test_experiments_know_the_config_only():
    files = sorted((ROOT / "experiments").rglob("*.py"))
    ours = [(path, name) for path in files for name in imports(path) if name.startswith("cnn_lab")]
    assert ours
    assert [(p, name) for p, name in ours if not name.startswith("cnn_lab.config.")] == []


def test_the_config_does_not_wait_for_jax():
    code = "import sys, cnn_lab.config; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_file_is_a_drawer():
    assert [path for path in FILES if path.name == "utils.py"] == []


def test_no_file_passes_300_lines():
    sizes = {
        path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in FILES
    }
    assert {name: size for name, size in sizes.items() if size > 300} == {}
