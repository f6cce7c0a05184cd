"""Fixtures that several of these files use."""

import gc

import pytest


@pytest.fixture
def collector_off():
    """What goes free does so by its count of references alone (rule 6)."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
