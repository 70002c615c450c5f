"""Gets the files of a published data set: from a folder of the user's, or by download.

Downloads go to a temporary file that is checked before it takes its name, so a file that has its
name is whole. An attempt without a network fails at once instead of retrying for minutes.
"""

import contextlib
import hashlib
import http.client
import os
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from cnn_lab.core.errors import DataError
from cnn_lab.data.datasets.archives import unpacked_paths
from cnn_lab.data.datasets.description import DatasetDescription, RemoteFile
from cnn_lab.data.parallel import Log
from cnn_lab.data.storage.array_cache import replacing

# With two addresses to try, a computer without a network fails in under five seconds.
_PROBE_SECONDS = 2.0
_READ_SECONDS = 30.0
_BLOCK_BYTES = 1 << 18
_REPORT_SECONDS = 0.5


def missing_files(description: DatasetDescription, folder: Path) -> list[RemoteFile]:
    """The files of a data set that `folder` holds neither packed nor unpacked."""
    return [
        file
        for file in description.files
        if not (folder / file.name).is_file() and unpacked_paths(file, folder) is None
    ]


def require_folder(from_dir: str | os.PathLike[str]) -> Path:
    """The folder that `--from_dir` names; a `DataError` where there is none."""
    folder = Path(from_dir).expanduser()
    if not folder.is_dir():
        problem = f"--from_dir={from_dir} is not a folder; name one with the files."
        raise DataError(problem, where="--from_dir", found=os.fspath(from_dir))
    return folder


def obtain_files(
    description: DatasetDescription,
    downloads: Path,
    *,
    from_dir: str | os.PathLike[str] | None = None,
    progress: Log | None = None,
) -> Path:
    """The folder that holds all files of a data set: `from_dir`, or `downloads` after a download.

    Raises:
        DataError: `from_dir` lacks a file, or one cannot be downloaded.
    """
    if not description.files:
        return downloads
    if from_dir is not None:
        folder = require_folder(from_dir)
        if missing := missing_files(description, folder):
            names = ", ".join(file.name for file in missing)
            raise DataError(
                f"--from_dir={from_dir} lacks {names}; put them there (packed or unpacked), or "
                "leave --from_dir out to download them.",
                where="--from_dir",
                found=os.fspath(from_dir),
                allowed=f"a folder with {names}",
            )
        return folder
    for file in missing_files(description, downloads):
        try:
            fetch(file, downloads, progress=progress)
        except (OSError, http.client.HTTPException) as error:
            missing = missing_files(description, downloads)
            for folder in (downloads, downloads.parent):
                with contextlib.suppress(OSError):  # it holds what was downloaded before
                    folder.rmdir()
            raise DataError(
                f"Could not download {file.name} ({_reason(error)}).\n"
                f"Get {_listing(missing)} into one folder DIR,\n"
                f"then run `cnn-lab data prepare {description.name} --from_dir=DIR`.",
                where=file.name,
            ) from error
    return downloads


def _listing(files: list[RemoteFile]) -> str:
    """Names and addresses of files, an address that several share only once."""
    names_at: dict[str, list[str]] = {}
    for file in files:
        folder, _, name = file.urls[0].rpartition("/")
        renamed = "" if name == file.name else f" as {file.name}"
        names_at.setdefault(folder, []).append(f"{name}{renamed}")
    return " and ".join(f"{', '.join(names)} from {url}/" for url, names in names_at.items())


def fetch(remote: RemoteFile, folder: Path, *, progress: Log | None = None) -> Path:
    """Downloads one file whole into a folder, from the first of its addresses that answers.

    Raises:
        DataError: the file that arrived has the wrong sha256.
        OSError: no address answered; the last one's failure.
        http.client.HTTPException: an address broke off; the last one's failure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    failure: Exception = OSError("it has no address")
    for url in remote.urls:
        try:
            return _fetch_url(url, remote, folder, progress)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()  # it holds the connection open
            failure = error
    raise failure


def _fetch_url(url: str, remote: RemoteFile, folder: Path, progress: Log | None) -> Path:
    _probe(url)
    target = folder / remote.name
    digest = hashlib.sha256()
    with replacing(target) as temporary:
        with (
            temporary.open("wb") as file,
            urllib.request.urlopen(url, timeout=_READ_SECONDS) as reply,
        ):
            announced = int(reply.headers.get("Content-Length") or 0)
            num_bytes, start, reported = 0, time.monotonic(), 0.0
            while block := reply.read(_BLOCK_BYTES):
                file.write(block)
                digest.update(block)
                num_bytes += len(block)
                now = time.monotonic()
                if progress is not None and now - reported > _REPORT_SECONDS:
                    reported, megabytes = now, num_bytes / 1e6
                    total = f" of {announced / 1e6:.1f}" if announced else ""
                    rate = megabytes / max(now - start, 1e-3)
                    progress(f"{remote.name}: {megabytes:.1f}{total} MB, {rate:.1f} MB/s")
        if announced and num_bytes != announced:
            raise OSError(f"the connection closed after {num_bytes} of {announced} bytes")
        if remote.sha256 is not None and digest.hexdigest() != remote.sha256:
            found, allowed = digest.hexdigest(), remote.sha256
            problem = f"{url} gave a file with sha256 {found}, expected {allowed}; it was deleted"
            remedy = "try again, or get the file elsewhere and use --from_dir."
            raise DataError(f"{problem}: {remedy}", where=url, found=found, allowed=allowed)
    return target


def _probe(url: str) -> None:
    """Raises OSError unless the host of `url` can be reached within `_PROBE_SECONDS`."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in urllib.request.getproxies() or parts.hostname is None:
        return  # the proxy resolves and connects, so a direct attempt would prove nothing
    address = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    outcome: list[OSError | None] = []

    def connect() -> None:
        try:
            socket.create_connection(address, timeout=_PROBE_SECONDS).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    # In a thread, since looking a name up may block far longer than any socket timeout.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    failure = outcome[0] if outcome else TimeoutError(f"no answer from {parts.hostname}")
    if failure is not None:
        raise failure


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return str(error) or type(error).__name__
