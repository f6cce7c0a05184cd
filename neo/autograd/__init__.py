"""The engine: Policies, sessions, tapes."""

from neo.autograd import session
from neo.autograd._tape import Node, Tape, TapeContext
from neo.autograd.policy import Context, Policy, function
from neo.autograd.session.drawing import Drawing, draw

__all__ = ["Context", "Drawing", "Node", "Policy", "Tape", "TapeContext", "draw", "function", "session"]
