"""Small programs, many of them."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """Compiling costs more than these tests compute."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
