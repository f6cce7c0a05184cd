"""Forward mode: tangents, pushed along a tape.

Each op pushes its tangents on by its Policy's own jvp, or, where it has none, by its backward: v -> J^T v is linear, and
its transpose is t -> J t (Townsend 2017, "A new trick for calculating Jacobian vector products").
"""
from libc.stdint cimport int32_t

import torch

from neo.autograd.autocast import off as autocast_off
from neo.autograd._node cimport Node, call_rule
from neo.autograd._queries cimport autocast_on
from neo.autograd._stack cimport Stack, open_stack
from neo.autograd._stack import TapeContext
from neo.autograd._tape cimport Tape
from neo.autograd._tensor cimport TensorBase, is_lite_tensor, wrap


def tangents(Tape tape not None, inputs, dots, outputs):
    """Push `dots`, the tangents of `inputs`, forward through every node; gives that of each output, None where it is zero.

    The tape must have been made with Tape(keep_tensors=True). inputs, outputs: sequences of LiteTensors; dots:
    a LiteTensor or torch.Tensor for each input. The tape may be walked afterwards.
    Raises RuntimeError when a walk has freed the tape, GradientError for a Policy whose jvp returns what it must not.
    """
    cdef int32_t slot
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
        push_forward(<Node> node, slots)
    found = [tape.slot_of(value) for value in outputs]
    return [slots[slot] if slot >= 0 else None for slot in found]


cdef int push_forward(Node node, list slots) except -1:
    """Push the tangents of a node's inputs forward to its outputs."""
    cdef int i, n = node.inputs
    cdef bint any_tangent = False
    cdef list dots = [None] * n
    for i in range(n):
        if node.slots[i] >= 0:
            dots[i] = slots[node.slots[i]]
            any_tangent = any_tangent or dots[i] is not None
    if not any_tangent:
        return 0
    moved = transposed(node, dots) if node.policy.jvp is None else call_rule(node, dots, True)
    for i in range(node.outputs):
        if node.slots[n + i] >= 0:
            slots[node.slots[n + i]] = moved[i]
    return 0


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
