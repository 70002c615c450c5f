"""Imports go down: each room of the package stands on a floor, and knows lower floors only."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "cnn_lab").rglob("*.py"))
FLOORS = {
    1: {"core"},
    2: {"config", "distributed", "layers"},
    3: {"data", "tasks", "optim", "analysis", "workdir"},
    4: {"models", "training", "report"},
    5: {"checkpoint", "transfer"},
    6: {"experiment"},
    7: {"runs"},
    8: {"study"},
    9: {"cli"},
}
FLOOR_OF = {room: floor for floor, rooms in FLOORS.items() for room in rooms}
ONLY_IN = {
    "orbax": "checkpoint/",
    # Commands parse flags; Grain's workers, which Python starts too, read one of Grain's own.
    "absl.flags": ("cli/", "data/loaders/streaming.py"),
    "matplotlib": "report/",
    "jinja2": "report/",
}


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


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "cnn_lab").parts[0]


def test_nothing_lies_loose_and_every_room_has_a_floor():
    loose = [path.name for path in (ROOT / "cnn_lab").glob("*.py") if path.name != "__init__.py"]
    assert loose == [], f"move {loose} into one of the rooms {sorted(FLOOR_OF)}"
    rooms = {room_of(path) for path in FILES} - {"__init__.py"}
    assert rooms == set(FLOOR_OF), f"give new rooms a floor in {__file__}"


def test_imports_go_down_only():
    edges = [
        (path, room_of(path), name)
        for path in FILES
        if path != ROOT / "cnn_lab" / "__init__.py"
        for name in imports(path)
        if name.startswith("cnn_lab.")
    ]
    assert len(edges) > 100  # else nothing was looked at
    climbs = [
        f"edit {path.relative_to(ROOT)}: {at} is on floor {FLOOR_OF[at]} and imports {name} of "
        f"floor {FLOOR_OF[name.split('.')[1]]}; pass the value in, or move it down"
        for path, at, name in edges
        if at != name.split(".")[1] and FLOOR_OF[name.split(".")[1]] >= FLOOR_OF[at]
    ]
    assert climbs == []


def test_some_libraries_are_known_in_one_place_only():
    bad = [
        f"edit {path.relative_to(ROOT)}: {library} is imported in {place} alone"
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


def test_no_two_rooms_have_a_public_class_of_one_name():
    rooms: dict[str, set[str]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                rooms.setdefault(node.name, set()).add(room_of(path))
    shared = {name: sorted(found) for name, found in rooms.items() if len(found) > 1}
    assert shared == {}, f"rename one of {shared}, so that one name is one thing"
