"""Lists a folder of JPEG or PNG files, one sub-folder per class, without opening any of them.

The folder's layout:

    PATH/<class>/<image>                               all of it is `train`, or
    PATH/{train,validation (or val),test}/<class>/<image>

and, if examples belong together, PATH/groups.csv with lines `relative/path.jpg,group`.
"""

import csv
import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cnn_lab.core.errors import DataError
from cnn_lab.data.parallel import Log, ThrottledLog

SPLIT_NAMES = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
GROUPS_FILE = "groups.csv"
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tgz", ".tbz2", ".txz", ".gz", ".bz2", ".xz", ".7z", ".rar")
_MAX_LISTED = 10


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One file: its name relative to the folder, size, split, label (or numbers) and group.

    There may be millions of them, so they hold nothing that can be computed.
    """

    name: str
    num_bytes: int
    split: str
    label: int | tuple[float, ...]
    group: str | None


@dataclass(frozen=True)
class Listing:
    """The content of a folder or table, before any file is opened.

    Attributes:
        name: of the data set that it becomes.
        files: all of them, split after split.
        class_names: label to name; empty where files have numbers.
        splits: `train` among them.
        unusable: name and reason of files that need not be opened to know it.
        fingerprint: digest of all names, sizes and times of change.
        value_names: of the numbers of each file.
    """

    name: str
    files: tuple[ImageFile, ...]
    class_names: tuple[str, ...]
    splits: tuple[str, ...]
    unusable: tuple[tuple[str, str], ...]
    fingerprint: str
    value_names: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.num_bytes for file in self.files)


def list_folder(root: Path, progress: Log | None = None) -> Listing:
    """Lists a folder of images; a `DataError` where it is not laid out as described above."""
    if root.suffix.lower() in ARCHIVE_SUFFIXES and root.is_file():
        problem = f"{root} is an archive; unpack it and name the folder instead."
        raise DataError(problem, where=str(root))
    if not root.is_dir():
        problem = f"There is no folder {root}; folder:PATH needs one folder per class in it."
        raise DataError(problem, where=str(root))
    split_folders = _split_folders(root)
    classes = {split: _class_folders(folder) for split, folder in split_folders.items()}
    names = {split: {folder.name for folder in folders} for split, folders in classes.items()}
    for split, found in names.items():
        if differing := sorted(found ^ names["train"], key=natural_order):
            folder, listed = split_folders[split], ", ".join(differing[:_MAX_LISTED])
            problem = f"The classes of {folder} and {split_folders['train']} differ in {listed}"
            remedy = "every split needs the same class folders"
            raise DataError(f"{problem}; {remedy}.", where=str(folder), found=differing)
    class_names = tuple(sorted(names["train"], key=natural_order))
    groups = _read_groups(root)
    files, unusable, log_progress = [], [], ThrottledLog(progress)
    digest = LinesDigest()
    if groups is not None:
        digest.add(stamp(GROUPS_FILE, (root / GROUPS_FILE).stat()))
    real_root = root.resolve()
    for split, folders in classes.items():
        for folder in sorted(folders, key=lambda folder: natural_order(folder.name)):
            label = class_names.index(folder.name)
            prefix = folder.relative_to(root).as_posix()
            linked = folder.is_symlink() or split_folders[split].is_symlink()
            log_progress(f"found {len(files):,} files in {root} so far")
            for entry in _files_of(folder):
                name = f"{prefix}/{entry.name}"
                if linked or entry.is_symlink():  # resolving every path would be slow
                    target = Path(entry.path).resolve()
                    if not target.is_relative_to(real_root):
                        unusable.append((name, "a link that leads out of the folder"))
                        continue
                    if not target.exists():
                        unusable.append((name, "a link that leads nowhere"))
                        continue
                status = entry.stat()
                digest.add(stamp(name, status))
                if entry.name.lower().endswith(IMAGE_SUFFIXES):
                    group = None if groups is None else groups.get(name)
                    files.append(ImageFile(name, status.st_size, split, label, group))
                else:
                    unusable.append((name, "not named .jpg, .jpeg or .png"))
    for name, reason in unusable:
        digest.add(f"{name}: {reason}")
    for split, found in names.items():
        for name in sorted(found):
            digest.add(f"{split}/{name}")
    if groups is not None:
        _check_groups(root, groups, files)
    return Listing(
        name=f"folder:{root}",
        files=tuple(files),
        class_names=class_names,
        splits=tuple(classes),
        unusable=tuple(unusable),
        fingerprint=digest.sha256.hexdigest(),
    )


def _split_folders(root: Path) -> dict[str, Path]:
    """Split name to folder; the folder itself is `train` where there are no splits."""
    found = [path.name for path in _visible(root) if path.is_dir()]
    named = [name for name in found if name in SPLIT_NAMES]
    if not named:
        return {"train": root}
    if others := [name for name in found if name not in SPLIT_NAMES]:
        beside = f"{', '.join(named)} beside {', '.join(others[:_MAX_LISTED])}"
        allowed = "either splits (train, validation, test) or classes"
        problem = f"{root} holds {beside}; it must hold {allowed}."
        raise DataError(problem, where=str(root), found=sorted(found), allowed=allowed)
    if "train" not in named:
        problem = f"{root} holds {', '.join(named)} but no train; name that folder train."
        raise DataError(problem, where=str(root), found=sorted(named))
    if {"val", "validation"} <= set(named):
        problem = f"{root} holds both val and validation; keep one of them."
        raise DataError(problem, where=str(root), found=sorted(named))
    _refuse_loose_files(root)
    return {SPLIT_NAMES[name]: root / name for name in sorted(named)}


def _class_folders(folder: Path) -> list[Path]:
    _refuse_loose_files(folder)
    folders = [path for path in _visible(folder) if path.is_dir()]
    if not folders:
        problem = f"{folder} holds no class folders; put the images of each class into one."
        raise DataError(problem, where=str(folder))
    return folders


def _refuse_loose_files(folder: Path) -> None:
    for path in _visible(folder):
        if path.is_file():
            _refuse_archive(str(path))
            if path.name.lower().endswith(IMAGE_SUFFIXES):
                problem = f"{path} lies outside any class folder"
                remedy = "put the images of each class into one"
                raise DataError(f"{problem}; {remedy}.", where=str(path))


def _refuse_archive(path: str) -> None:
    if path.lower().endswith(ARCHIVE_SUFFIXES):
        problem = f"{path} is an archive; unpack it and remove it from the folder."
        raise DataError(problem, where=path)


def _files_of(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as listing:
        entries = [entry for entry in listing if not _is_hidden(entry.name)]
    if not entries:
        problem = f"Class folder {folder} is empty; add images or remove it."
        raise DataError(problem, where=str(folder))
    for entry in sorted(entries, key=lambda entry: natural_order(entry.name)):
        if entry.is_dir():
            raise DataError(
                f"Class folder {folder} holds another folder, {entry.name}; classes cannot be "
                "nested: move its images up, or name the folder above the classes.",
                where=str(folder),
                found=entry.name,
            )
        _refuse_archive(entry.path)
        yield entry


def _is_hidden(name: str) -> bool:
    """Whether a file is one that file managers leave behind."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")


def _visible(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not _is_hidden(path.name)]


def _read_groups(root: Path) -> dict[str, str] | None:
    path = root / GROUPS_FILE
    if not path.is_file():
        return None
    groups = {}
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, row in enumerate(csv.reader(file), start=1):
            if not row or (number == 1 and row[-1].strip().lower() == "group"):
                continue
            if len(row) != 2 or not row[1].strip():
                found, allowed = ",".join(row), "`relative/path,group`"
                problem = f"Line {number} of {path} is {found!r}, expected {allowed}."
                raise DataError(problem, where=str(path), found=found, allowed=allowed)
            groups[Path(row[0].strip()).as_posix()] = row[1].strip()
    return groups


def _check_groups(root: Path, groups: dict[str, str], files: list[ImageFile]) -> None:
    where = str(root / GROUPS_FILE)
    if absent := [file.name for file in files if file.group is None]:
        some = f"{len(absent)} of {len(files)} images, such as {absent[0]}"
        problem = f"{where} gives no group to {some}; list every image."
        raise DataError(problem, where=where, allowed="a group of every image")
    if unknown := sorted(groups.keys() - {file.name for file in files}):
        problem = f"{where} lists {unknown[0]}, which is not an image of the folder"
        allowed = "paths relative to the folder, with forward slashes"
        raise DataError(
            f"{problem}; give {allowed}.", where=where, found=unknown[0], allowed=allowed
        )
    check_groups_stay_whole(where, files)


def check_groups_stay_whole(where: str, files: list[ImageFile]) -> None:
    """Raises a `DataError` about the file `where` for a group that is in several splits."""
    splits: dict[str, set[str]] = {}
    for file in files:
        splits.setdefault(file.group or "", set()).add(file.split)
    if shared := [group for group, found in splits.items() if len(found) > 1]:
        problem = f"Group {shared[0]!r} of {where} is in {' and '.join(sorted(splits[shared[0]]))}"
        remedy = "a group must stay inside one split"
        raise DataError(f"{problem}; {remedy}.", where=where, found=shared[0])


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """A sort key that puts `class2` before `class10`."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts], name


class LinesDigest:
    """Digest of lines joined by line feeds, none of which is stored."""

    def __init__(self) -> None:
        self.sha256, self._between = hashlib.sha256(), ""

    def add(self, line: str) -> None:
        """Adds a line."""
        self.sha256.update((self._between + line).encode(errors="surrogateescape"))
        self._between = "\n"


def stamp(name: str, status: os.stat_result) -> str:
    """A line that changes with a file: its name, size and time of change."""
    return f"{name} {status.st_size} {status.st_mtime_ns}"
