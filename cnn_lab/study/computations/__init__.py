"""Computations of studies without a training of the usual kind, by name."""

from collections.abc import Callable

from cnn_lab.analysis.verdict import Record
from cnn_lab.study.computations.polynomial import polynomial
from cnn_lab.study.computations.signal import signal
from cnn_lab.study.computations.xor import xor

VERSION = 2  # of their meaning; cached records of another one are computed again
COMPUTATIONS: dict[str, Callable[..., list[Record]]] = {
    "polynomial": polynomial,
    "signal": signal,
    "xor": xor,
}
