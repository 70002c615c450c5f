"""Lines for the user, who may have stopped reading, as after `cnn-lab ... | head -1`."""

import contextlib
import os
import select
import sys
from pathlib import Path

from cnn_lab.core.errors import ConfigError

UNREAD_STATUS = 141  # of a program that SIGPIPE ended, as shells show it


def log(text: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def log_if_read(text: str) -> None:
    """Prints a line at once, and drops lines once nobody reads them.

    A training is worth more than its lines, which the metrics hold too.
    """
    try:
        log(text)
    except BrokenPipeError:
        drop_unread()
        complain("Nobody reads the standard output any more; going on without it.\n")


def picture_path(out: str) -> Path:
    """The path of the picture that --out asks for.

    Raises:
        ConfigError: it is no PNG's name, or its folder is not there.
    """
    path = Path(out)
    if path.suffix != ".png":
        raise ConfigError(f"--out must end in .png; found {out!r}.", where="--out", found=out)
    if not path.absolute().parent.is_dir():
        sentence = f"--out={out}: there is no folder {path.absolute().parent}."
        raise ConfigError(sentence, where="--out", found=out)
    return path


def complain(text: str) -> None:
    """Writes to standard error, if somebody reads it."""
    with contextlib.suppress(BrokenPipeError):
        sys.stderr.write(text)
        sys.stderr.flush()
    drop_unread()


def drop_unread() -> bool:
    """Redirects an output that nobody reads to nowhere; returns whether there was any."""
    unread = [descriptor for descriptor in (1, 2) if _is_unread(descriptor)]
    for descriptor in unread:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)
    return bool(unread)


def _is_unread(descriptor: int) -> bool:
    """Whether a descriptor is a pipe or socket whose reader is gone."""
    poll = select.poll()
    poll.register(descriptor, 0)  # errors are reported whatever is asked for
    return any(event & select.POLLERR for _, event in poll.poll(0))
