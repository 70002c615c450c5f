"""Lists the images that a CSV table names, with a class or numbers for each, without opening any.

The table has a header line and, in any order, the columns

    path     of an image file, relative to the folder of the table and in it, links followed
    label    its class; or, where there is no such column, all columns but these four are numbers,
             which are to be predicted
    split    train, validation (or val) or test; without it, all are train
    group    of examples that belong together; without it, none do
"""

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cnn_lab.core.errors import DataError
from cnn_lab.core.text import counted
from cnn_lab.data.datasets.folder import (
    SPLIT_NAMES,
    ImageFile,
    LinesDigest,
    Listing,
    check_groups_stay_whole,
    natural_order,
    stamp,
)
from cnn_lab.data.datasets.numbers import as_float32

PATH, LABEL, SPLIT, GROUP = "path", "label", "split", "group"
LARGEST = float(np.finfo(np.float32).max)  # numbers are stored in float32


def list_table(table: Path) -> Listing:
    """Lists the images of a table.

    Raises:
        DataError: there is no such table, or a line of it cannot be used.
    """
    where, folder = str(table), table.parent.resolve()
    rows = _rows(table)
    columns = list(rows[0])
    value_names = () if LABEL in columns else tuple(c for c in columns if c not in _KNOWN)
    if LABEL not in columns and not value_names:
        problem = f"{where} has neither a column {LABEL!r} nor columns of numbers; add one"
        raise DataError(f"{problem}.", where=where, found=columns)
    class_names: tuple[str, ...] = ()
    if LABEL in columns:
        found = {row[LABEL].strip() for row in rows}
        class_names = tuple(sorted(found, key=natural_order))
    label_of = {name: label for label, name in enumerate(class_names)}
    files, seen, digest = [], {}, LinesDigest()
    digest.add(stamp(table.name, table.stat()))
    for number, row in enumerate(rows, start=2):
        name = row[PATH].strip()
        place = f"line {number} of {where}"
        if not name:
            raise DataError(f"The path in {place} is empty.", where=where, found=number)
        file = _file(folder, name, place, where)
        if file in seen:
            problem = f"{name} is in lines {seen[file]} and {number} of {where}; keep one of them."
            raise DataError(problem, where=where, found=name)
        seen[file] = number
        label: int | tuple[float, ...]
        if class_names:
            if not row[LABEL].strip():
                raise DataError(f"The label in {place} is empty.", where=where, found=number)
            label = label_of[row[LABEL].strip()]
        else:
            label = tuple(_number(row[column], column, place, where) for column in value_names)
        split = _split(row.get(SPLIT), place, where)
        group = None if GROUP not in row else row[GROUP].strip()
        status = file.stat()
        digest.add(stamp(f"{split} {group} {label} {name}", status))
        files.append(ImageFile(name, status.st_size, split, label, group))
    if value_names:
        numbers = np.array([file.label for file in files], np.float64)
        as_float32(f"The numbers in {where}", numbers, where)
    splits = tuple(dict.fromkeys(file.split for file in files))
    if "train" not in splits:
        problem = f"{where} has no line of split train, only of {', '.join(splits)}."
        raise DataError(problem, where=where, found=splits, allowed="train among the splits")
    if GROUP in columns:
        check_groups_stay_whole(where, files)
    order = {split: place for place, split in enumerate(("train", "validation", "test"))}
    return Listing(
        name=f"table:{table}",
        files=tuple(sorted(files, key=lambda file: order[file.split])),
        class_names=class_names,
        value_names=value_names,
        splits=splits,
        unusable=(),
        fingerprint=digest.sha256.hexdigest(),
    )


_KNOWN = (PATH, LABEL, SPLIT, GROUP)


def _rows(table: Path) -> list[dict[str, str]]:
    """The lines of a table by column, at least one, each of which has every column."""
    where = str(table)
    if not table.is_file():
        problem = f"There is no file {table}; table:FILE needs a CSV file with a column {PATH!r}."
        raise DataError(problem, where=where)
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, row) for row in reader if row]
    except (UnicodeDecodeError, csv.Error) as error:
        problem = f"{table} cannot be read as CSV in UTF-8 ({error})."
        raise DataError(problem, where=where) from error
    if len(set(header)) != len(header) or "" in header:
        allowed = "a header line of column names, each once"
        raise DataError(
            f"The first line of {table} must be {allowed}; found {','.join(header)!r}.",
            where=where,
            found=header,
            allowed=allowed,
        )
    if PATH not in header:
        problem = f"{table} has no column {PATH!r}; its header line has {', '.join(header)}."
        raise DataError(problem, where=where, found=header, allowed=PATH)
    for number, row in lines:
        if len(row) != len(header):
            raise DataError(
                f"Line {number} of {table} has {counted(len(row), 'field')}, its header "
                f"{len(header)}; quote fields that hold a comma.",
                where=where,
                found=len(row),
                allowed=str(len(header)),
            )
    if not lines:
        raise DataError(f"{table} has a header line and no other.", where=where)
    return [dict(zip(header, row, strict=True)) for _, row in lines]


def _file(folder: Path, name: str, place: str, where: str) -> Path:
    """The image file of a line, links followed, which lies below the folder of the table."""
    try:
        file = (folder / name).resolve()
        is_file = file.is_file()
    except (OSError, ValueError):  # a name that no file can have
        file, is_file = folder, False
    if not is_file:
        problem = f"{name} ({place}) is no file below {folder}; mend the path, or the table's."
        raise DataError(problem, where=where, found=name)
    if Path(name).is_absolute() or not file.is_relative_to(folder):
        allowed = f"relative to {folder}, and of a file in it"
        problem = (
            f"The path {name} in {place} must be {allowed}, so that the table can move with it."
        )
        raise DataError(problem, where=where, found=name, allowed=allowed)
    return file


def _number(text: str, column: str, place: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) <= LARGEST:  # NaN is not either
        advice = f"name the column {LABEL!r} if these are classes"
        problem = f"Column {column!r} in {place} must be a finite number; found {text.strip()!r}."
        raise DataError(problem, where=where, found=text.strip(), advice=advice)
    return value


def _split(text: str | None, place: str, where: str) -> str:
    if text is None:
        return "train"
    names: Mapping[str, str] = SPLIT_NAMES
    if text.strip() not in names:
        problem = f"The split in {place} is {text.strip()!r}, which is none"
        raise DataError(problem, where=where, found=text.strip(), allowed=names)
    return names[text.strip()]
