"""A signal ends a run that starts, and stops one that trains."""

import os
import signal
import subprocess
import sys
import time

import pytest

from cnn_lab.workdir.preemption import NOTHING_BEGUN, STOPPING, StopSignals

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


@BOTH
def test_before_the_loop_the_first_signal_ends_the_run(number: int):
    before = signal.getsignal(number)
    for earlier in (False, True):
        with pytest.raises(KeyboardInterrupt) as caught, StopSignals(earlier=earlier):
            signal.raise_signal(number)
        assert signal.getsignal(number) is before
        assert caught.value.args == ("" if earlier else NOTHING_BEGUN,)


@BOTH
def test_in_the_loop_the_first_signal_is_remembered_and_answered(number: int, capfd):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        signals.begin()
        assert not signals.received()
        signal.raise_signal(number)
        assert signals.received()
        assert signal.getsignal(number) is before  # so that a second one acts as usual
    assert capfd.readouterr().err == STOPPING + "\n"


# Some 20 seconds of compilation; to leave it running at the exit would crash.
COMPILING = """
import os
import jax, jax.numpy as jnp
from cnn_lab.workdir.preemption import StopSignals

def f(x):
    for index in range(400):
        x = jnp.sin(jnp.linalg.inv(x) @ x) + jnp.sort(x, axis=index % 2)
    return x

lowered = jax.jit(f).lower(jnp.ones((64, 64)))
try:
    with StopSignals():
        print("compiling", flush=True)
        lowered.compile()
except KeyboardInterrupt:
    os._exit(130)
"""


@BOTH
def test_a_compilation_is_interrupted(number: int):
    environment = {"JAX_ENABLE_COMPILATION_CACHE": "false", "JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMPILING],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "compiling\n"
        time.sleep(1)
        start = time.monotonic()
        process.send_signal(number)
        assert process.wait(timeout=120) == 130
        assert time.monotonic() - start < 5
