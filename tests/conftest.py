"""The real Omniglot, where it is; and Ctrl-C for the processes that tests start."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import tasks
from tasks.omniglot import find

# A shell starts what it puts into the background with SIGINT ignored, and so would be all processes that tests start
# and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_itemcollected(item: pytest.Item) -> None:
    """What goes through every case is slow, too."""
    if item.get_closest_marker("exhaustive"):
        item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def omniglot_dir() -> Path:
    """The folder of the real Omniglot: $NEO_DATA, or ../shared/data beside the repository."""
    place = Path(os.environ.get("NEO_DATA") or Path(__file__).parents[1].parent / "shared" / "data")
    if find(place) is None:
        pytest.skip(f"no Omniglot in {place}; set NEO_DATA to a folder that has images_background.zip")
    return place


@pytest.fixture(scope="session")
def omniglot_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder for the real images, common to all workers of one test run."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "omniglot-cache"


@pytest.fixture(scope="session")
def omniglot(omniglot_dir: Path, omniglot_cache: Path) -> tasks.Omniglot:
    """The real Omniglot under the split `maml`; its cache is never written beside the data."""
    return tasks.Omniglot(omniglot_dir, "maml", cache_dir=omniglot_cache, download=False)
