"""Replays on the CPU, for the tests of them."""

from __future__ import annotations

import pytest

from tests.helpers.built import expect_replay


@pytest.fixture
def replays() -> None:
    """That there are any: _replay is built."""
    expect_replay()
