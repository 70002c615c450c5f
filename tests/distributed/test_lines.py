"""Lines between processes: strangers are turned away, and every kind of end is heard."""

import socket
import threading
import time

import pytest

from cnn_lab.core.errors import LostError
from cnn_lab.distributed import failure_detector
from cnn_lab.distributed.failure_detector import Lines
from cnn_lab.distributed.processes import Processes


class Three(Processes):
    count = 3


def connected(port: int, *messages: bytes) -> socket.socket:
    link = socket.create_connection(("localhost", port), timeout=5)
    for message in messages:
        link.sendall(message)
    return link


def test_those_who_know_the_word_are_let_in_and_strangers_are_not():
    with failure_detector._server(3) as server:
        port = server.getsockname()[1]
        strangers = [
            connected(port, text)
            for text in (b"\xff\xfe 1\n", b"guess 1\n", b"x" * 300, b"word 7\n")
        ]
        given_up = connected(port, b"word 1\n")
        given_up.close()
        known = [connected(port, b"word %d\n" % index, b"here\n") for index in (2, 1)]
        found = failure_detector._welcomed(server, b"word", Three())
    assert {i: link.getpeername()[1] for i, link in found.items()} == {
        2: known[0].getsockname()[1],
        1: known[1].getsockname()[1],
    }
    for stranger in strangers:
        with pytest.raises((ConnectionError, AssertionError)):
            assert stranger.recv(9)
    for link in [*strangers, *known, *found.values()]:
        link.close()


def test_who_does_not_come_is_told(monkeypatch):
    monkeypatch.setattr(failure_detector, "MEET_SECONDS", 0.2)
    with (
        failure_detector._server(3) as server,
        pytest.raises(LostError, match=r"^Only 1 of 3"),
    ):
        failure_detector._welcomed(server, b"word", Three())
    text = r"^Process 0 of 3 could not reach process 0 at port \d+ of localhost \(.+\); let"
    with pytest.raises(LostError, match=text):
        failure_detector._reached(["localhost"], 1, b"", Three())


@pytest.fixture
def pair(monkeypatch):
    """Two ends of a line, the first one listened at, and what was heard there."""
    monkeypatch.setattr(failure_detector, "ALIVE_SECONDS", 0.05)
    here, there = socket.socketpair()
    heard = []
    found = Lines({1: here}, lambda index, message: heard.append((index, dict(message))))
    found.listen()
    yield found, there, heard
    there.close()
    found.linger(5)
    here.close()


def until(condition):
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_an_other_says_of_its_end_is_heard_and_then_that_it_is_gone(pair):
    found, there, heard = pair
    there.sendall(b'{"alive": true}\n{"index": 1, "te')
    there.sendall(b'xt": "why", "status": 2}\nno json\n')
    until(lambda: heard)
    assert heard == [(1, {"index": 1, "text": "why", "status": 2})]
    there.close()
    found.linger(5)
    assert heard[1:] == [(1, {})]


def test_who_has_left_is_not_missed(pair):
    found, there, heard = pair
    there.sendall(b'{"left": true}\n')
    found.linger(5)
    assert not heard


def test_silence_is_an_end_too(pair, monkeypatch):
    _, there, heard = pair
    for _ in range(5):
        time.sleep(0.05)
        there.sendall(b'{"alive": true}\n')
    assert not heard
    monkeypatch.setattr(failure_detector, "SILENT_SECONDS", 0.2)
    until(lambda: heard)
    assert heard == [(1, {})]
    assert there.recv(30).startswith(b'{"alive": true')


def test_it_may_linger_where_it_listens():
    here, there = socket.socketpair()
    lingered = threading.Event()

    def ends(index, message):
        if message:
            found.linger(5)
            lingered.set()

    found = Lines({1: here}, ends)
    found.listen()
    there.sendall(b'{"index": 1, "text": "why", "status": 2}\n')
    assert not lingered.wait(0.2)
    there.close()
    assert lingered.wait(5)
    here.close()
