"""Extensions of neo.kernels that tests need: without them a test is skipped, and in continuous integration fails."""

from __future__ import annotations

import os

import pytest

from neo.kernels import direct, replay

__all__ = ["expect_direct", "expect_replay"]


def expect_direct() -> None:
    """Skips where _direct is missing, or fails where NEO_REQUIRE_DIRECT is set, as in continuous integration."""
    _expect("_direct", direct.look is not None)


def expect_replay() -> None:
    """The same of _replay, which is built where _direct is."""
    _expect("_replay", replay.available)


def _expect(name: str, built: bool) -> None:
    if not built:
        give_up = pytest.fail if os.environ.get("NEO_REQUIRE_DIRECT") else pytest.skip
        give_up(f"neo.kernels.{name} is not built for this torch; make env builds it")
