"""A step's kernel calls, recorded once and replayed on the CPU: see neo.capture, and _replay.cpp for the replay."""

from __future__ import annotations

from neo._recording.replayed import Replayed, recordable

__all__ = ["Replayed", "recordable"]
