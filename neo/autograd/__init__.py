"""The engine: Policies, sessions, tapes."""

from neo.autograd import custom_functions as custom_functions  # answers torch.autograd.Function.apply
from neo.autograd import session
from neo.autograd._node import Node
from neo.autograd._stack import TapeContext
from neo.autograd._tape import Tape
from neo.autograd.drawing import Drawing, draw
from neo.autograd.policy import Context, Policy

__all__ = ["Context", "Drawing", "Node", "Policy", "Tape", "TapeContext", "draw", "session"]
