"""What is checked while tests run, and what is not."""

import pytest
from beartype import BeartypeConf, beartype

# An int counts as a float, as PEP 484 and pyright have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))

# For tests in which a library is made to fail and leaves a thread or an event loop behind. Python
# speaks of those when they are collected: at the end of that test.
leftovers = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
