import os

# Before torch is imported: tests run side by side, and sums must not depend on the number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _home(tmp_path_factory):
    """Caches of the tests go to a folder of their own."""
    old = os.environ.get("SELFSIGHT_HOME")
    os.environ["SELFSIGHT_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    if old is None:
        os.environ.pop("SELFSIGHT_HOME")
    else:
        os.environ["SELFSIGHT_HOME"] = old
