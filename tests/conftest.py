"""What holds for all tests: how kernels run without a GPU, how patient Hypothesis is, which studies are shared."""

import os
import signal

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # a process a core; libraries read it as they are loaded

# a shell that starts this in the background lets Ctrl-C go unheard, and so would the commands under test
signal.signal(signal.SIGINT, signal.default_int_handler)

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton has to be told before it is imported

from tests.support.finished import finished_study, shared_folder  # noqa: E402

settings.register_profile("shared machine", deadline=None)  # how long an example takes is others' doing as well
settings.load_profile("shared machine")


def pytest_addoption(parser):
    parser.addoption("--accept", action="store_true", help="write the golden files anew from what is computed now")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A function from a study's name to its own copy of the finished study and what its command printed."""
    shared = shared_folder(tmp_path_factory)
    return lambda name: finished_study(name, shared, tmp_path_factory.mktemp("finished") / "study")
