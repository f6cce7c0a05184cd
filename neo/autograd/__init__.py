"""The engine: Policies, sessions, tapes."""

from neo.autograd import session
from neo.autograd._node import Node
from neo.autograd._stack import TapeContext
from neo.autograd._tape import Tape
from neo.autograd.policy import Context, Policy, function
from neo.autograd.session.composition import check_composition
from neo.autograd.session.drawing import Drawing, draw

__all__ = [
    "Context",
    "Drawing",
    "Node",
    "Policy",
    "Tape",
    "TapeContext",
    "check_composition",
    "draw",
    "function",
    "session",
]
