"""What Neo raises when it cannot give a right number. Every message says where, what was expected, what came, what to do."""

from __future__ import annotations

__all__ = [
    "GradcheckError",
    "GradientError",
    "InPlaceError",
    "NeoError",
    "SavedTensorError",
]


class NeoError(Exception):
    """The base of every error that Neo itself raises."""


class GradientError(NeoError, RuntimeError):
    """A Policy's backward returned gradients of the wrong number, type, shape, dtype or device."""


class SavedTensorError(NeoError, RuntimeError):
    """A saved tensor was changed in place, or cannot be differentiated through at the order asked for."""


class InPlaceError(NeoError, TypeError):
    """An in-place operation on a LiteTensor; the message names the functional form."""


class GradcheckError(NeoError, AssertionError):
    """A gradient disagrees with finite differences; the message names order, input, entry, expected and got."""
