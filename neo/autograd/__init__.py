"""The engine: Policies, sessions, tapes."""

from neo.autograd import session
from neo.autograd._tape import Node, Tape, TapeContext
from neo.autograd.policy import Context, Policy

__all__ = ["Context", "Node", "Policy", "Tape", "TapeContext", "session"]
