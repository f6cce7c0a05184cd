"""Taylor mode: the derivatives of an op's outputs along a curve, up to an order, pushed along as ops run.

A TaylorTape of order K is a level in forward mode (_forward.pyx) whose tangents have tangents in their turn: with x come
x1, x2, ... xK, the derivatives of x along the curve, each of which is the tangent of the one before. Of an op y = f(x) the
rule for tangents makes y1 from x and x1. Its ops are those of which the same rules make y2, from what x, x1 and y1 have for
tangents, and so on; each order shares what those below it have computed, where forward mode in forward mode computes a
derivative of order k once for each of the ways to it.

The orders come one after the other: all ops of one order are waited for, and only then pushed, for a rule may use what its op
gave (y1 = y x1 of y = exp x), whose tangent it is itself to make. The rules see the levels around this one and, but for
those of the last order, this one too:

      order   ops that run              tangents pushed for
        0     y = exp(x)                y by x                       y1 = y x1
        1     y1 = y x1                 y1 by y, x1                  y2 = y1 x1 + y x2
        2     a = y1 x1, b = y x2,      a by y1, x1; b by y, x2;     y3 = (y2 x1 + y1 x2) + (y1 x2 + y x3)
              y2 = a + b                y2 by a, b

Griewank and Walther 2008, Evaluating Derivatives, chapter 13; Bettencourt, Johnson and Duvenaud 2019, "Taylor-mode automatic
differentiation for higher-order derivatives in JAX".
"""
from libc.stdint cimport int32_t

from neo.autograd._context cimport PolicyBase
from neo.autograd._forward cimport ForwardTape
from neo.autograd._node cimport Node
from neo.autograd._slots cimport TensorSlots
from neo.autograd._stack cimport Stack, open_stack
from neo.autograd._tensor cimport TensorBase, is_lite_tensor

cdef object UNKNOWN = object()      # in place of the tangent of a tensor whose op is still waited for


cdef class TaylorTape(ForwardTape):
    """A level of an order: push it like a tape, `begin` tensors with their derivatives, and ask for those of others."""
    cdef public Py_ssize_t order    # to be set before anything else
    cdef list waiting               # while rules run: the ops in them, with inputs and outputs; else None

    def __repr__(self):
        return f"TaylorTape({self.count} tensors, order {self.order})"

    def begin(self, TensorBase tensor not None, list series not None):
        """Track `tensor`, whose first, second, ... derivatives these are: LiteTensors nobody else uses, None for zero."""
        cdef TensorBase below = tensor
        self.watch(tensor)
        for term in series:
            if term is None:
                break
            self.watch(below)
            self.tangents.dots[self.slot_of(below)] = term
            below = <TensorBase?> term

    def series_of(self, TensorBase tensor not None):
        """The derivatives of `tensor`, as many as the order: LiteTensors, torch.Tensors, or None where zero."""
        cdef list found = []
        cdef object term = tensor
        while len(found) < self.order:
            term = self.tangent_of(term) if is_lite_tensor(term) else None
            found.append(term)
        return found

    cdef object dot(self, int32_t slot):
        dot = ForwardTape.dot(self, slot)
        if dot is UNKNOWN:
            raise RuntimeError("neo.jet: a derivative is wanted of a tensor before it is known; please report it")
        return dot

    cdef int record(self, Node node, PolicyBase policy, tuple inputs, tuple outputs, bint all_floating) except -1:
        """Push all orders through an op of the function's own; let an op in a rule wait for its order."""
        cdef int i
        cdef Py_ssize_t order, place
        cdef list ops
        self.enter(node, policy, inputs, outputs, all_floating)
        for i in range(node.outputs):
            if node.slots[node.inputs + i] >= 0:
                self.tangents.dots[node.slots[node.inputs + i]] = UNKNOWN
        op = (node, inputs, outputs)
        if self.waiting is not None:
            self.waiting.append(op)
            return 0
        place = open_stack().tapes.index(self)
        ops = [op]
        try:
            for order in range(1, self.order + 1):
                self.waiting = []
                for node, inputs, outputs in ops:
                    self.move(node, outputs, place + 1 if order < self.order else place)
                ops = self.waiting
        finally:
            self.waiting = None
        return 0

    cdef bint push(self, Node node) except -1:
        """False where no input has a tangent, and neither have the outputs then."""
        cdef int i
        cdef bint pushed = ForwardTape.push(self, node)
        if not pushed:
            for i in range(node.outputs):
                if node.slots[node.inputs + i] >= 0:
                    self.tangents.dots[node.slots[node.inputs + i]] = None
        return pushed


def orders_taken(TensorBase tensor not None):
    """How many derivatives, one of the other, the open levels take by this tensor: one each, and TaylorTapes their order."""
    cdef Stack stack = open_stack()
    cdef Py_ssize_t i, found = 0
    if stack is None:
        return 0
    for i in range(stack.first_recording(), len(stack.tapes)):
        if (<TensorSlots> stack.tapes[i]).slot_of(tensor) >= 0:
            found += (<TaylorTape> stack.tapes[i]).order if type(stack.tapes[i]) is TaylorTape else 1
    return found
