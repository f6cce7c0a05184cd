"""The tape: which op made which tensor, and the walk back.

A session opens a tape, watches its arguments, runs, and walks the tape back. A tensor that a tape tracks has a slot
(_slots.pyx); a node (_node.pyx) holds the slots of its inputs and outputs and the Policy that ran. Which of the open tapes
record an op: _stack.pyx.

References run one way, tape -> nodes -> contexts -> tensors, and tensors know nothing: no cycles (rule 6).
"""
from libc.stdint cimport int32_t

import torch

from neo.autograd.autocast import off as autocast_off, state as autocast_state
from neo.autograd._context cimport PolicyBase
from neo.autograd._node cimport Node, call_rule
from neo.autograd._batched import in_transform
from neo.autograd._queries cimport alike, autocast_on
from neo.autograd._slots cimport TensorSlots
from neo.autograd._stack cimport Stack, open_elsewhere, open_stack, refuse_other_threads
from neo.autograd._tensor cimport TensorBase, is_lite_tensor
from neo.kernels import direct

cdef object Tensor = torch.Tensor
cdef object add = direct.add
cdef enum:
    LARGE = 1 << 14             # entries of a sum from which on memory costs more than the call


cdef class Tape(TensorSlots):
    """What one session records. Open it with `TapeContext.push(tape)`; `watch` the tensors it is to differentiate."""

    def __cinit__(self):
        self.nodes = []

    def __len__(self):
        return len(self.nodes)

    def __repr__(self):
        return f"Tape({len(self.nodes)} nodes, {self.count} tensors)"

    def add(self, Node node not None):
        """Record a hand-made node: on this tape, and on every other open one that tracks one of its parents (rule 3).

        Its outputs become known to these tapes. Adding is explicit, so that torch.no_grad around it changes nothing. A
        tape that a checkpoint suspends waits for the recomputation, as it does with ops.
        Raises ValueError for the node of a recorded op, RuntimeError when a walk has freed this tape, SessionError when a
        session of another thread tracks a parent.
        """
        if node.given is None:
            raise ValueError("Tape.add: the node is on a tape already")
        if self.freed:
            raise RuntimeError("Tape.add: an earlier walk has freed this tape; add to an open one: TapeContext.current()")
        cdef Stack stack = open_stack()
        if open_elsewhere(stack):
            refuse_other_threads("Tape.add", stack, node.given[1])
        if stack is None or self not in stack.tapes:
            record_by_hand(self, node, True)
        if stack is not None:
            record_on_open_tapes(stack, stack.muted, node, self, True)

    cdef int record(self, Node node, PolicyBase policy, tuple inputs, tuple outputs, bint all_floating) except -1:
        """Put an op on this tape, as `node`: the tensors among its inputs, and its outputs.

        all_floating: the outputs are known to be; integers and booleans have no derivative.
        """
        self.enter(node, policy, inputs, outputs, all_floating)
        self.nodes.append(node)
        return 0

    cdef int enter(self, Node node, PolicyBase policy, tuple inputs, tuple outputs, bint all_floating) except -1:
        """Give the outputs of an op slots, and fill in its node."""
        cdef int i, n = <int> len(inputs), m = <int> len(outputs)
        cdef TensorBase output
        node.allot(n, m)
        node.policy = policy
        node.tensors = self.tensors
        for i in range(n):
            node.slots[i] = self.slot_of(<TensorBase> inputs[i]) if is_lite_tensor(inputs[i]) else -1
        for i in range(m):
            output = <TensorBase?> outputs[i]
            node.slots[n + i] = self.new_slot(output) if all_floating or output.data.is_floating_point() else -1
        return 0

    def gradients(self, outputs, cotangents, inputs, *, bint keep=False):
        """Walk back from `outputs` with `cotangents`; gives the gradient of each input, None where there is none.

        outputs, inputs: sequences of LiteTensors; cotangents: a LiteTensor or torch.Tensor for each output.
        keep=False frees nodes and what they saved as the walk passes them; keep=True allows another walk.
        Raises RuntimeError while the tape is open, and when an earlier walk has freed it.
        """
        if autocast_on():       # ops of the walk run in the dtypes that forward used
            with autocast_off():
                return self.gradients(outputs, cotangents, inputs, keep=keep)
        cdef Stack stack = open_stack()
        if stack is not None and self in stack.tapes:
            raise RuntimeError("Tape.gradients: the tape is open and would record its own walk; TapeContext.pop() first")
        if self.freed:
            raise RuntimeError("Tape.gradients: an earlier walk has freed this tape; walk with keep=True to walk again")
        self.freed = not keep
        cdef list slots = [None] * self.count
        cdef int32_t slot
        for output, cotangent in zip(outputs, cotangents, strict=True):
            slot = self.slot_of(output)
            if slot >= 0:
                if stack is not None and stack.floor and is_lite_tensor(cotangent):
                    stack.capture(<TensorBase> cotangent, stack.first())    # raw to this walk, which nobody follows, yet used
                slots[slot] = cotangent if slots[slot] is None else accumulate(slots[slot], cotangent)
        wanted = [self.slot_of(value) for value in inputs]
        if stack is not None and stack.observer is not None:
            with stack.observer.walking(self):
                self.walk(slots, keep)
        else:
            self.walk(slots, keep)
        return [slots[slot] if slot >= 0 else None for slot in wanted]

    cdef int walk(self, list cotangents, bint keep) except -1:
        """The walk back: cotangents by slot, of which those of the slots that no node made remain."""
        cdef Py_ssize_t i
        cdef Node node
        cdef list nodes = self.nodes
        cdef bytearray sums = bytearray(len(cotangents))
        for i in range(len(nodes) - 1, -1, -1):
            node = <Node> nodes[i] if keep else <Node> nodes.pop()
            pull_back(node, cotangents, sums)
        return 0


cdef int pull_back(Node node, list cotangents, bytearray sums) except -1:
    """Pull the cotangents of a node's outputs back to its inputs.

    sums: of each slot, whether its cotangent is a sum that this walk has made, which nobody else can see: the next
    term is added in place. A first term may be anybody's, a saved tensor or a view among them.
    """
    cdef int i, n = node.inputs
    cdef int32_t slot
    cdef bint any_cotangent = False
    cdef object cotangent, gradient
    cdef list bars = [None] * node.outputs
    cdef tuple gradients

    for i in range(node.outputs):
        slot = node.slots[n + i]
        if slot >= 0:
            cotangent = cotangents[slot]
            if cotangent is not None:
                cotangents[slot] = None
                any_cotangent = True
                bars[i] = cotangent
    if not any_cotangent:
        return 0
    cotangent = None            # call_rule alone holds the cotangents now, and backward may free them
    gradients = call_rule(node, bars, False)
    for i in range(n):
        slot = node.slots[i]
        if slot < 0:
            continue
        gradient = gradients[i]
        if gradient is not None:
            cotangent = cotangents[slot]
            if cotangent is None:
                cotangents[slot] = gradient
                sums[slot] = False
            elif not (sums[slot] and added_in_place(cotangent, gradient)):
                gradient = accumulate(cotangent, gradient)
                cotangents[slot] = gradient
                sums[slot] = type(gradient) is Tensor
    return 0


cdef bint added_in_place(object total, object term) except -1:
    """Add a term to a sum where that saves memory to be fetched: large torch tensors of one shape and dtype."""
    if type(term) is not Tensor or alike(total, term) != 1 or total.numel() < LARGE or in_transform():
        return False
    total.add_(term)
    return True


cdef object accumulate(object a, object b):
    """The sum of two cotangents, either of which may be a LiteTensor: then the sum is one and is recorded."""
    return add(b, a) if is_lite_tensor(b) else add(a, b)


# --- nodes made by hand ----------------------------------------------------------------------------------------------


def record(outputs, parents, bwd_fn, jvp=None, bint materialize=True):
    """Record bwd_fn as the gradient rule from `outputs` to `parents` on every open tape that tracks a parent.

    jvp: the rule for tangents: a LiteTensor, or None for zero, for each parent -> the same for each output.
    materialize: whether bwd_fn gets zeros where no cotangent came; else None. The node keeps no tensor alive.
    """
    cdef Stack stack = open_stack()
    if stack is not None:
        record_on_open_tapes(stack, stack.first(), Node(outputs, parents, bwd_fn, jvp, materialize), None, False)


cdef int record_on_open_tapes(Stack stack, Py_ssize_t first, Node node, Tape preferred, bint keep) except -1:
    """Record a hand-made node on each open tape from `first` on that tracks a parent: itself on `preferred`, else copies.

    keep: the nodes keep their outputs and parents alive, as those do that a user has made.
    """
    cdef Py_ssize_t i
    cdef bint recorded = False
    outputs, parents = node.given
    for parent in parents:
        stack.capture(<TensorBase> parent, first)
    first = max(first, stack.floor)
    for i in range(first, len(stack.tapes)):
        if stack.tapes[i] is preferred:
            recorded = record_by_hand(preferred, node, keep)
    for i in range(first, len(stack.tapes)):
        if stack.tapes[i] is not preferred and record_by_hand(<Tape> stack.tapes[i], node, keep):
            recorded = True
    if recorded and stack.observer is not None:
        stack.observer.recorded(node.policy.rule(False), None, parents, parents, outputs)
    return 0


cdef bint record_by_hand(Tape tape, Node node, bint keep) except -1:
    """Record a hand-made node on a tape, if that tracks a parent; a copy of it, if it is on another tape already."""
    outputs, parents = node.given
    if not tape.tracks_any(parents):
        return False
    if node.slots != NULL or not keep:
        node = Node(outputs, parents, node.policy.rule(False), node.policy.rule(True), node.policy.materialize)
    node.layouts = [layout(parent) for parent in parents]
    node.output_layouts = [layout(output) for output in outputs]
    node.autocast = autocast_state() if autocast_on() else None
    if not keep:
        node.given = None
    tape.record(node, node.policy, parents, outputs, False)
    return True


cdef tuple layout(object tensor):
    return tensor.shape, tensor.dtype, tensor.device
