"""What the system refuses ends in a sentence, not in a traceback."""

import errno
import os

import pytest

from cnn_lab.cli import main as main_module
from cnn_lab.workdir.preemption import NOTHING_BEGUN


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EMFILE, "allow more open files (ulimit -n)"),
        (errno.ENFILE, "allow more open files (ulimit -n)"),
        (errno.ENOSPC, "free space or permissions there"),
    ],
)
@pytest.mark.parametrize("name", [None, "some/file"])
def test_what_the_system_refuses_is_no_bug(number, remedy, name, monkeypatch, capsys):
    def refuse(_):
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(main_module, "_main", refuse)
    assert main_module.main(["train"]) == main_module.USAGE_STATUS
    told = capsys.readouterr().err
    assert told.startswith(f"error: {name or 'A file'} cannot be ")
    assert f"({os.strerror(number)}); {remedy}, then run the same command again" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("reason", "told"),
    [("", "what was saved before is intact"), (NOTHING_BEGUN, NOTHING_BEGUN)],
)
def test_an_interruption_says_what_became_of_the_run(reason, told, monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt(reason)

    monkeypatch.setattr(main_module, "_main", interrupt)
    assert main_module.main(["train"]) == 130
    assert capsys.readouterr().err == f"\ninterrupted; {told}.\n"


def test_other_errors_keep_their_traceback(monkeypatch):
    def lose(_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "a")

    monkeypatch.setattr(main_module, "_main", lose)
    with pytest.raises(FileNotFoundError):
        main_module.main(["train"])
