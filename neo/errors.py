"""What Neo raises when it cannot give a right number: each message says where, expected, got, and what to do."""

from __future__ import annotations

__all__ = [
    "AmbiguousTruthError",
    "AutocastError",
    "ConvergenceError",
    "ConvergenceWarning",
    "ConversionError",
    "DrawError",
    "GradcheckError",
    "GradientError",
    "InPlaceError",
    "KernelArgumentError",
    "NeoError",
    "NumberError",
    "SavedTensorError",
    "SessionError",
]


class NeoError(Exception):
    """The base of every error that Neo itself raises."""


class GradientError(NeoError, RuntimeError):
    """A Policy's backward returned gradients of the wrong number, type, shape, dtype or device."""


class SavedTensorError(NeoError, RuntimeError):
    """A saved tensor was changed in place, or cannot be differentiated through at the order asked for."""


class SessionError(NeoError, RuntimeError):
    """A tensor that an open session tracks is used where the session cannot see it: its gradient would be lost."""


class NumberError(NeoError, TypeError):
    """A tensor where an op takes a number, which would lose its gradient; the message names the op and the argument."""


class AutocastError(NeoError, RuntimeError):
    """torch.autocast has no dtype for this call, as in torch; the message says what to do instead."""


class InPlaceError(NeoError, TypeError):
    """An in-place operation on a LiteTensor; the message names the functional form."""


class ComplexError(NeoError, TypeError):
    """Complex numbers, which Neo's rules are not for; the message names the op."""


class CaptureError(NeoError, RuntimeError):
    """A step cannot be recorded, or its replay is not what it does; the message says why, and what it must not do."""


class KernelArgumentError(NeoError, RuntimeError):
    """A tensor that a compiled kernel cannot take; the message names kernel and argument, what was expected and got."""


class GradcheckError(NeoError, AssertionError):
    """A gradient disagrees with finite differences; the message names order, input, entry, expected and got."""


class ConversionError(NeoError, TypeError):
    """A torch.nn.Module that cannot be made a pure function of its parameters; the message names the part and why."""


class ConvergenceError(NeoError, RuntimeError):
    """A solver did not come as close as it was asked to; the message says how close, and after how many products."""


class ConvergenceWarning(UserWarning):
    """The same, where the solver was asked to go on with what it had."""


class DrawError(NeoError, RuntimeError):
    """A random draw where none may happen: no seed was given for it."""


class AmbiguousTruthError(NeoError, RuntimeError, TypeError):
    """The truth of a tensor that is not one number.

    A RuntimeError, as in torch; a TypeError, so that whoever sorts the keys of a dict of gradients, as optree does,
    knows that they have no order and takes them as they stand.
    """
