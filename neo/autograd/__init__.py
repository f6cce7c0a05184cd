"""The engine: Policies, sessions, tapes."""

from neo.autograd import custom_functions as custom_functions  # answers torch.autograd.Function.apply
from neo.autograd import session
from neo.autograd._tape import Node, Tape, TapeContext
from neo.autograd.composition import check_composition
from neo.autograd.drawing import Drawing, draw
from neo.autograd.policy import Context, Policy

__all__ = [
    "Context",
    "Drawing",
    "Node",
    "Policy",
    "Tape",
    "TapeContext",
    "check_composition",
    "draw",
    "session",
]
