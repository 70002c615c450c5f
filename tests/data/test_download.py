"""Downloads from a server on this computer: complete, cut short, wrong, and not there at all."""

import dataclasses
import hashlib
import http.server
import threading
import time

import pytest
from refusals import refused

from cnn_lab.core.errors import DataError
from cnn_lab.data.datasets.catalog import DATASETS, open_dataset
from cnn_lab.data.datasets.description import ArchiveMember, RemoteFile
from cnn_lab.data.datasets.download import fetch, missing_files, obtain_files

CONTENT = bytes(range(256)) * 4000
DEAD = "http://127.0.0.1:9"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        half = self.path == "/short"
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if half else CONTENT)

    def log_message(self, format, *args):  # noqa: A002  (its name in http.server)
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


def remote(*urls: str, sha256: str | None = None) -> RemoteFile:
    digest = sha256 or hashlib.sha256(CONTENT).hexdigest()
    return RemoteFile("data.gz", len(CONTENT), digest, urls, (ArchiveMember("data", 1),))


def test_a_file_is_downloaded_checked_and_reported(server, tmp_path):
    lines = []
    path = fetch(remote(f"{server}/whole"), tmp_path / "new", progress=lines.append)
    assert path.read_bytes() == CONTENT
    assert [entry.name for entry in path.parent.iterdir()] == ["data.gz"]
    assert lines[0].startswith("data.gz: ")
    assert " of 1.0 MB, " in lines[0]
    assert lines[0].endswith("MB/s")


def test_the_second_address_is_tried(server, tmp_path):
    for first in (f"{DEAD}/x", f"{server}/missing", f"{server}/short"):
        path = fetch(remote(first, f"{server}/whole"), tmp_path)
        assert path.read_bytes() == CONTENT
        path.unlink()


def test_a_wrong_digest_is_told_and_leaves_nothing(server, tmp_path):
    url, found = f"{server}/whole", hashlib.sha256(CONTENT).hexdigest()
    with refused(DataError, where=url, found=found, allowed="0" * 64):
        fetch(remote(url, sha256="0" * 64), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_body_cut_short_is_told_and_leaves_nothing(server, tmp_path):
    with pytest.raises(OSError, match="connection closed after 512000 of 1024000 bytes"):
        fetch(remote(f"{server}/short"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_a_network_the_files_are_named_at_once(server, tmp_path):
    files = tuple(
        dataclasses.replace(file, urls=(f"{DEAD}/{file.name}", f"{server}/missing"))
        for file in DATASETS["mnist"].files
    )
    offline = dataclasses.replace(DATASETS["mnist"], files=files)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        open_dataset("mnist", tmp_path, descriptions={"mnist": offline})
    assert time.monotonic() - start < 5
    text = str(caught.value)
    names = ", ".join(file.name for file in files)
    assert text.splitlines() == [
        "Could not download train-images-idx3-ubyte.gz (HTTP status 404).",
        f"Get {names} from {DEAD}/ into one folder DIR,",
        "then run `cnn-lab data prepare mnist --from_dir=DIR`.",
    ]
    assert not list(tmp_path.iterdir()), "a refused preparation left something"


def test_a_refused_connection_is_the_reason_given(tmp_path):
    file = dataclasses.replace(DATASETS["mnist"].files[0], urls=(f"{DEAD}/x",))
    offline = dataclasses.replace(DATASETS["mnist"], files=(file,))
    with pytest.raises(DataError, match=r"\(\[Errno \d+\] Connection refused\)"):
        obtain_files(offline, tmp_path)


def test_from_dir_must_be_a_folder_and_complete(tmp_path):
    description = DATASETS["mnist"]
    with refused(DataError, where="--from_dir", found=str(tmp_path / "absent")):
        obtain_files(description, tmp_path, from_dir=tmp_path / "absent")
    for file in description.files[:2]:
        (tmp_path / file.name).touch()
    (tmp_path / description.files[2].members[0].name).touch()
    assert missing_files(description, tmp_path) == [description.files[3]]
    allowed = "a folder with t10k-labels-idx1-ubyte.gz"
    with refused(DataError, where="--from_dir", found=str(tmp_path), allowed=allowed):
        obtain_files(description, tmp_path / "downloads", from_dir=tmp_path)


def test_what_was_downloaded_before_is_not_downloaded_again(tmp_path):
    for file in DATASETS["mnist"].files:
        (tmp_path / file.name).touch()
    assert obtain_files(DATASETS["mnist"], tmp_path) == tmp_path
