"""Forward mode: tangents, pushed along as ops run, or later along a tape.

Each op pushes its tangents on by its Policy's own jvp, or, where it has none, by its backward: v -> J^T v is linear, and
its transpose is t -> J t (Townsend 2017, "A new trick for calculating Jacobian vector products").

A ForwardTape is a level (_stack.pyx) like a session's tape, and has tangents where that has nodes: of an op that it tracks
it computes the tangents at once, and keeps nothing of the op. Its rules run with the levels around it alone:

      level   tape                      tracks      does at y = f(x)
            +---------------------------------------------------------------------------------------+
        1   | a session's               x   y       a node; and one for each op of jvp, below       |
            |   +-----------------------------------------------------------------------------------+
        2   |   | a ForwardTape         x   y       y_dot = f's jvp(x_dot), in which level 1 is open |
            |   |   +-------------------------------------------------------------------------------+
        3   |   |   | a session's       x   y       a node                                          |
            +---------------------------------------------------------------------------------------+

So the walk back at level 3 is forward over reverse: the memory of a gradient, twice. A tangent lives as long as a LiteTensor
does that stands for its tensor, be it held by a node's context, and no longer.
"""
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport int32_t

import torch

from neo.autograd.autocast import off as autocast_off
from neo.autograd._context cimport PolicyBase
from neo.autograd._node cimport Node, call_rule
from neo.autograd._queries cimport autocast_on
from neo.autograd._slots cimport TensorSlots
from neo.autograd._stack cimport Stack, open_stack, use_all_levels, use_outer_levels
from neo.autograd._stack import TapeContext
from neo.autograd._tape cimport Tape
from neo.autograd._tensor cimport TensorBase, is_lite_tensor, listen, stop_listening, wrap

cdef object GONE = object()         # in place of the tangent of a tensor that nothing stood for any more


class NoTangentRule(Exception):
    """An op without a tangent rule of its own, on a level that was to have no other: for hvp."""


cdef class Tangents:
    """The tangent of each slot of a ForwardTape, as long as LiteTensors stand for its tensor."""

    def __cinit__(self):
        self.dots = []
        self.holders = []

    cdef int release(self, int32_t slot) except -1:
        self.holders[slot] -= 1
        if self.holders[slot] == 0:
            self.dots[slot] = GONE
        return 0


cdef class Holder:
    """Called when one of the LiteTensors that stand for a slot's tensor is gone."""
    cdef Tangents tangents
    cdef int32_t slot

    def __call__(self, reference):
        self.tangents.release(self.slot)


cdef class ForwardTape(Tape):
    """A level in forward mode: push it like a tape, `start` tensors with their tangents, and ask for `tangent_of` others."""
    def __cinit__(self):
        self.tangents = Tangents()
        self.holders = []

    def __repr__(self):
        return f"ForwardTape({self.count} tensors)"

    def start(self, TensorBase tensor not None, dot):
        """Track `tensor`, whose tangent is `dot`, a LiteTensor or torch.Tensor of its shape, dtype and device."""
        cdef Stack stack = open_stack()
        self.watch(tensor)
        if not is_lite_tensor(dot):
            dot = dot.detach()
        elif stack is not None and stack.floor:
            stack.capture(<TensorBase> dot, stack.first())
        self.tangents.dots[self.slot_of(tensor)] = dot

    def tangent_of(self, TensorBase tensor not None):
        """The tangent of `tensor`, a LiteTensor or torch.Tensor; None where it is zero."""
        cdef int32_t slot = self.slot_of(tensor)
        return None if slot < 0 else self.dot(slot)

    def gradients(self, outputs, cotangents, inputs, *, bint keep=False):
        raise RuntimeError("Tape.gradients: this is a level in forward mode (neo.jvp), which has no nodes to walk back along")

    cdef object dot(self, int32_t slot):
        dot = self.tangents.dots[slot]
        if dot is GONE:
            raise RuntimeError("neo.jvp: the tangent of a tensor is wanted that nothing referred to any more; please report it")
        return dot

    cdef int hold(self, int32_t slot, TensorBase tensor) except -1:
        cdef Holder holder = Holder.__new__(Holder)
        holder.tangents = self.tangents
        holder.slot = slot
        self.tangents.holders[slot] += 1
        self.holders.append(PyWeakref_NewRef(tensor, holder))
        return 0

    cdef int32_t new_slot(self, TensorBase tensor) except -1:
        cdef int32_t slot = TensorSlots.new_slot(self, tensor)
        self.tangents.dots.append(None)
        self.tangents.holders.append(0)
        self.hold(slot, tensor)
        return slot

    cdef int alias(self, TensorBase fresh, TensorBase tensor) except -1:
        cdef int32_t slot = self.slot_of(tensor)
        if slot >= 0:
            self.set_slot(fresh, slot)
            self.hold(slot, fresh)
        return 0

    cdef int another(self, TensorBase tensor) except -1:
        cdef int32_t slot = self.slot_of(tensor)
        if slot >= 0:
            self.hold(slot, tensor)
        return 0

    cdef int opened(self) except -1:
        listen(self)
        return 0

    cdef int closed(self) except -1:
        stop_listening(self)
        return 0

    cdef int record(self, Node node, PolicyBase policy, tuple inputs, tuple outputs, bint all_floating) except -1:
        """Push the tangents of an op's inputs forward to its outputs, at once."""
        self.enter(node, policy, inputs, outputs, all_floating)
        return self.move(node, outputs, open_stack().tapes.index(self))

    cdef int move(self, Node node, tuple outputs, Py_ssize_t levels) except -1:
        """Push tangents to an op's outputs, the rule seeing so many levels; outputs that get none go untracked."""
        cdef int i
        cdef Stack stack = open_stack()
        cdef bint pushed
        use_outer_levels(stack, levels)
        try:
            if autocast_on():
                with autocast_off():
                    pushed = self.push(node)
            else:
                pushed = self.push(node)
        finally:
            use_all_levels(stack, levels)
        for i in range(node.outputs):
            if node.slots[node.inputs + i] >= 0 and (
                    not pushed or self.tangents.dots[node.slots[node.inputs + i]] is None):
                self.set_slot(<TensorBase> outputs[i], -1)
        return 0

    cdef bint push(self, Node node) except -1:
        """False where no input has a tangent."""
        cdef int i, n = node.inputs
        cdef list dots = [self.dot(node.slots[i]) if node.slots[i] >= 0 else None for i in range(n)]
        if self.own_rules and node.policy.jvp is None and any([dot is not None for dot in dots]):
            raise NoTangentRule(node.name)
        cdef object moved = pushed_forward(node, dots)
        if moved is None:
            return False
        for i in range(node.outputs):
            if node.slots[n + i] >= 0:
                self.tangents.dots[node.slots[n + i]] = moved[i]
        return True


def tangents(Tape tape not None, inputs, dots, outputs):
    """Push `dots`, the tangents of `inputs`, forward through every node; gives that of each output, None where it is zero.

    The tape must have been made with Tape(keep_tensors=True). inputs, outputs: sequences of LiteTensors; dots:
    a LiteTensor or torch.Tensor for each input. The tape may be walked afterwards, and tangents pushed again.
    Raises RuntimeError when a walk has freed the tape, GradientError for a Policy whose jvp returns what it must not.
    """
    cdef int32_t slot
    cdef int i
    cdef Node node
    cdef object moved
    cdef Stack stack = open_stack()
    if autocast_on():
        with autocast_off():
            return tangents(tape, inputs, dots, outputs)
    if tape.freed or tape.kept is None:
        raise RuntimeError("tangents: the tape must have been made with keep_tensors=True, and not been freed by a walk back")
    cdef list slots = [None] * tape.count
    for value, dot in zip(inputs, dots, strict=True):
        slot = tape.slot_of(value)
        if slot < 0:
            continue
        if not is_lite_tensor(dot):
            dot = dot.detach()
        elif stack is not None and stack.floor:
            stack.capture(<TensorBase> dot, stack.first())
        slots[slot] = dot
    for node in tape.nodes:
        moved = pushed_forward(node, [slots[node.slots[i]] if node.slots[i] >= 0 else None for i in range(node.inputs)])
        if moved is None:
            continue
        for i in range(node.outputs):
            if node.slots[node.inputs + i] >= 0:
                slots[node.slots[node.inputs + i]] = moved[i]
    found = [tape.slot_of(value) for value in outputs]
    return [slots[slot] if slot >= 0 else None for slot in found]


cdef object pushed_forward(Node node, list dots):
    """The tangents of a node's outputs, None for zero, from those of its inputs; None where all of these are zero."""
    for dot in dots:
        if dot is not None:
            return transposed(node, dots) if node.policy.jvp is None else call_rule(node, dots, True)
    return None


cdef list transposed(Node node, list dots):
    """A tangent for each output, by the rule for gradients alone, transposed.

    Backward runs on ones (anything would do, but at zero a rule may take another path), recorded on a tape of its own,
    which is then walked back with the tangents of the inputs.
    """
    cdef int i
    cdef Tape tape = Tape()
    cdef list bars = [None] * node.outputs
    for i in range(node.outputs):
        output = node.tensor_at(node.inputs + i)
        if output is not None:      # None for integers; others are alive, for the tape keeps them
            bars[i] = wrap(torch.ones_like((<TensorBase> output).data))
            tape.watch(bars[i])
    TapeContext.push(tape)
    try:
        gradients = call_rule(node, list(bars), False)
    finally:
        TapeContext.pop()
    cdef list pulled = [i for i in range(node.inputs) if dots[i] is not None and is_lite_tensor(gradients[i])]
    moved = tape.gradients([gradients[i] for i in pulled], [dots[i] for i in pulled],
                           [bar for bar in bars if bar is not None])
    return [None if bar is None else moved.pop(0) for bar in bars]
