"""Starts several processes on this machine that train as one, and ends them together.

Examples:
  python launch/local.py --processes=2 --cpu_devices=1 -- train --config=FILE.py
  python launch/local.py --processes=4 --gpus=1 --max_restarts=3 -- train --config=FILE.py

What follows `--` is a cnn-lab command; the flags that join the processes are added to it. Every
line of theirs is shown behind the number of its process, and added to a log a process. When one
fails, this says which and how, the others are ended too, and all are started again as often as
--max_restarts allows: they go on from the last checkpoint. Mistakes in the command (status 2) are
not tried again. Ctrl-C, or SIGTERM, lets all processes save and stop; a second one kills them. The
status is that of the first failure.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

COMMANDS = ("train", "finetune")
USAGE_STATUS = 2
FOLLOWING = (75, -signal.SIGABRT)  # of a process that ended, or that JAX ended, for want of another
GRACE_SECONDS = 20.0  # for the others to end by themselves when one has failed
POLL_SECONDS = 0.1


def main() -> int:
    """Starts, watches and restarts; returns the exit status."""
    arguments = parse()
    stop, status = Stop(), 0
    for attempt in range(arguments.max_restarts + 1):
        group = Group(arguments, attempt)
        with stop.sent_to(group), group:
            if stop.asked:  # before they were there
                group.send(signal.SIGTERM)
            status = group.wait()
        done = status in (0, USAGE_STATUS) or stop.asked
        if done:
            return status
        if attempt < arguments.max_restarts:
            log(f"restart {attempt + 1} of {arguments.max_restarts}: status {status}")
    log(
        f"status {status}, logs in {arguments.logs}; what was saved before is intact: run the same "
        "command again to go on from there"
    )
    return status


def parse() -> argparse.Namespace:
    """Reads the command line; mistakes end with one sentence and status 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, required=True, help="how many")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--cpu_devices", type=int, help="virtual CPU devices a process")
    kind.add_argument("--gpus", type=int, help="GPUs a process: the first ones for process 0, ...")
    parser.add_argument("--max_restarts", type=int, default=0, help="of all, after a failure")
    parser.add_argument("--logs", type=Path, default=Path("logs"), help="folder of the logs")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- train --config=...")
    found = parser.parse_args()
    found.command = found.command[found.command[:1] == ["--"] :]
    if not found.command:
        parser.error("there is no command; give one after --, such as -- train --config=FILE.py")
    for name in ("processes", "cpu_devices", "gpus"):
        value = getattr(found, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1; found {value}")
    if found.command[0] not in COMMANDS:
        parser.error(
            f"only {' and '.join(COMMANDS)} run in several processes, without cnn-lab before "
            f"them; found {found.command[0]!r}"
        )
    if found.logs.exists() and not found.logs.is_dir():
        parser.error(f"--logs={found.logs} is a file; give a folder")
    if found.max_restarts < 0:
        parser.error(f"--max_restarts must be at least 0; found {found.max_restarts}")
    return found


class Group:
    """The processes of one attempt.

    Args:
        arguments: the command line.
        attempt: how many there were before.
    """

    def __init__(self, arguments: argparse.Namespace, attempt: int):
        self._arguments, self._attempt = arguments, attempt
        self._processes: list[subprocess.Popen[bytes]] = []
        self._readers: list[threading.Thread] = []

    def __enter__(self) -> "Group":
        arguments, address = self._arguments, f"localhost:{free_port()}"
        arguments.logs.mkdir(parents=True, exist_ok=True)
        for index in range(arguments.processes):
            command = [sys.executable, "-m", "cnn_lab.cli.main", *arguments.command]
            command += [f"--coordinator={address}", f"--num_processes={arguments.processes}"]
            command += [f"--process_id={index}"]
            process = subprocess.Popen(
                command,
                env={**os.environ, **self._devices(index)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the launcher, what it sends for helpers too
            )
            self._processes.append(process)
            reader = threading.Thread(target=self._show, args=(index, process), daemon=True)
            reader.start()
            self._readers.append(reader)
        return self

    def __exit__(self, *_: object) -> None:
        self.send(signal.SIGKILL)
        for process in self._processes:
            process.wait()
        for reader in self._readers:
            reader.join(timeout=5)

    def wait(self) -> int:
        """Until all have ended; returns the status of the first that failed, 0 if none did."""
        first, deadline = 0, float("inf")
        while self._running() and time.monotonic() < deadline:
            if not first and (first := self._first_failure()):
                deadline = time.monotonic() + GRACE_SECONDS
            time.sleep(POLL_SECONDS)
        for index in self._running():
            log(f"process {index} did not end or answer; killing it")
        return first or self._first_failure()

    def _running(self) -> list[int]:
        return [i for i, process in enumerate(self._processes) if process.poll() is None]

    def _first_failure(self) -> int:
        """Status of a process that failed, as a shell has it; 0 if none has.

        Of several it is one that did not end only because another one had.
        """
        failed = [(i, p.returncode) for i, p in enumerate(self._processes) if p.returncode]
        for index, code in sorted(failed, key=lambda found: found[1] in FOLLOWING):
            how = f"ended with status {code}"
            if code < 0:
                how = f"was killed by signal {-code} ({signal.strsignal(-code)})"
            rest = f"; waiting up to {GRACE_SECONDS:.0f} s for the others to end"
            log(f"process {index} {how}{rest if self._running() else ''}")
            return code if code > 0 else 128 - code
        return 0

    def send(self, number: int) -> None:
        """Sends a signal to all that are running, and to their helpers."""
        for process in self._processes:
            if process.poll() is None or number == signal.SIGKILL:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def _devices(self, index: int) -> dict[str, str]:
        arguments = self._arguments
        if arguments.cpu_devices:
            return {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(arguments.cpu_devices)}
        if arguments.gpus:
            chosen = range(index * arguments.gpus, (index + 1) * arguments.gpus)
            given = os.environ.get("CUDA_VISIBLE_DEVICES")
            names = given.split(",") if given else [str(number) for number in range(chosen.stop)]
            return {
                "CUDA_VISIBLE_DEVICES": ",".join(names[chosen.start : chosen.stop]),
                "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cuda"),  # never the CPU instead
            }
        return {}

    def _show(self, index: int, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        path = self._arguments.logs / f"process{index}.log"
        of, command = self._arguments.processes, shlex.join(self._arguments.command)
        begun = f"{time.strftime('%Y-%m-%d %H:%M:%S')}, attempt {self._attempt + 1}"
        with path.open("ab") as file:
            file.write(f"--- {begun}, process {index} of {of}: {command}\n".encode())
            for line in process.stdout:
                file.write(line)
                file.flush()
                sys.stdout.buffer.write(f"[{index}] ".encode() + line)
                sys.stdout.buffer.flush()


class Stop:
    """Ctrl-C and SIGTERM: the first lets all processes save and stop, the second kills them."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def sent_to(self, group: Group) -> Iterator[None]:
        """Answers both inside a `with`."""

        def handle(number: int, frame: object) -> None:  # noqa: ARG001 - signal's signature
            group.send(signal.SIGKILL if self.asked else signal.SIGTERM)
            self.asked = True

        before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


def log(text: str) -> None:
    """Prints a line of the launcher's own."""
    sys.stdout.write(f"launch: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
