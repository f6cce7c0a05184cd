"""A recorded op, and how its rule is called, in either direction.

The rule is the Policy's backward, or, forward, its jvp. Both are called in one way: on torch tensors, or, if a tape that
is open around the call tracks a cotangent (a tangent) or anything that forward saved, on LiteTensors, so that what the
rule does is recorded there (rule 3). See _stack.pyx for a drawing.
"""
cimport cython
from libc.stdint cimport int32_t
from libc.stdlib cimport free, malloc

import torch

from neo.autograd.autocast import off as autocast_off, restored
from neo.errors import GradientError
from neo.autograd._checks cimport check_gradient, check_tangent, entries, refuse_stashed_tensors
from neo.autograd._context cimport Context, PolicyBase
from neo.autograd._function_mode cimport blocks, switch, undo
from neo.autograd._queries cimport autocast_on
from neo.autograd._stack cimport Stack, open_stack
from neo.autograd._tensor cimport TensorBase, is_lite_tensor, wrap, wrap_as

cdef object Tensor = torch.Tensor
cdef enum:
    FEW = 6                     # Node.few


cdef extern from *:
    """
    /* The backward or jvp of a Policy that runs in this thread, the innermost one. */
    static _Thread_local RunningRule neo_rule = {0, 0, 0};
    """
    RunningRule neo_rule


cdef class BackwardFunction(PolicyBase):
    """The Policy of a node made by hand: its backward is a plain function, which gets LiteTensors at every order."""

    broadcasts = False
    verified = False

    def __cinit__(self):
        self.ctx = Context.__new__(Context)

    def backward(self, *cotangents):
        return self.bwd_fn(*cotangents)

    cdef str rule_name(self):
        return getattr(self.bwd_fn, "__name__", type(self.bwd_fn).__name__)

    cdef object rule(self, bint forward):
        return self.jvp if forward else self.bwd_fn


@cython.freelist(64)
cdef class Node:
    """One recorded op: `Node(output, parents, bwd_fn)`.

    output: the LiteTensor it made (a tuple if several; None once it is no longer alive elsewhere).
    parents: its tensor inputs, one entry each; None for those the tape does not track or that are gone.
    bwd_fn: one cotangent per output -> one gradient per parent (None = no gradient).
    A Node made by hand is recorded with `tape.add(node)`, keeps its tensors alive, and has bwd_fn called with
    LiteTensors: bwd_fn is the rule at every order, like a Policy's backward.
    jvp, if there is one, is its forward-mode rule: a LiteTensor, or None for zero, for each parent -> for each output.
    materialize=False: bwd_fn gets None, in place of zeros, for an output that no cotangent came to.
    """

    def __init__(self, output, parents, bwd_fn, jvp=None, materialize=True):
        outputs = tuple(output) if isinstance(output, (tuple, list)) else (output,)
        for value in (*outputs, *parents):
            if not is_lite_tensor(value):
                raise TypeError(f"Node: output and parents must be LiteTensors, got {type(value).__name__}")
        if not callable(bwd_fn):
            raise TypeError(f"Node: bwd_fn must be callable, got {type(bwd_fn).__name__}")
        self.given = (outputs, tuple(parents))
        self.policy = BackwardFunction()
        (<BackwardFunction> self.policy).bwd_fn = bwd_fn
        (<BackwardFunction> self.policy).jvp = jvp
        (<BackwardFunction> self.policy).materialize = materialize

    def __dealloc__(self):
        if self.slots != self.few:
            free(self.slots)

    cdef int allot(self, int inputs, int outputs) except -1:
        self.slots = self.few
        if inputs + outputs > FEW:
            self.slots = <int32_t *> malloc((inputs + outputs) * sizeof(int32_t))
            if self.slots == NULL:
                raise MemoryError()
        self.inputs = inputs
        self.outputs = outputs
        return 0

    cdef object tensor_at(self, int index):
        cdef int32_t slot = self.slots[index]
        return None if slot < 0 else self.tensors[slot]()

    @property
    def output(self):
        outputs = self.given[0] if self.given is not None else tuple(
            [self.tensor_at(self.inputs + i) for i in range(self.outputs)])
        return outputs[0] if len(outputs) == 1 else outputs

    @property
    def parents(self):
        if self.given is not None:
            return self.given[1]
        return tuple([self.tensor_at(i) for i in range(self.inputs)])

    @property
    def bwd_fn(self):
        return self.pull_back if self.given is None else self.policy.rule(False)

    def pull_back(self, *cotangents):
        """bwd_fn of a recorded op: one cotangent per output -> a tuple of one gradient (or None) per parent."""
        if autocast_on():
            with autocast_off():
                return self.pull_back(*cotangents)
        if len(cotangents) != self.outputs:
            raise GradientError(f"{self.name}: expected {self.outputs} cotangents, one per output, got {len(cotangents)}")
        cdef bint lite = any([is_lite_tensor(cotangent) for cotangent in cotangents])
        gradients = call_rule(self, list(cotangents), False)
        return tuple([wrap(g.detach()) if lite and isinstance(g, Tensor) else g for g in gradients])

    @property
    def name(self):
        """The Policy's name, or the name of a hand-made node's bwd_fn."""
        return self.policy.rule_name()

    def __repr__(self):
        return f"Node({self.name}, slots {[self.slots[i] for i in range(self.inputs)]} -> " \
               f"{[self.slots[self.inputs + i] for i in range(self.outputs)]})"


cdef RunningRule running_rule() noexcept:
    """What runs in this thread. Rule 3: sessions in a rule must mean the same on torch tensors as on LiteTensors."""
    return neo_rule


cdef tuple call_rule(Node node, list values, bint forward):
    """A node's gradients, one or None per input, from `values`, a cotangent or None per output; or, where `forward`, its
    tangents, one or None per output, from those of its inputs.

    Under the state of torch.autocast that a user's forward ran under. `values` is overwritten.
    """
    if node.autocast is None:
        return call_rule_here(node, values, forward)
    with restored(node.autocast):
        return call_rule_here(node, values, forward)


cdef tuple call_rule_here(Node node, list values, bint forward):
    global neo_rule
    cdef int i, n = node.inputs, given = n if forward else node.outputs
    cdef PolicyBase policy = node.policy
    cdef Context ctx = policy.ctx
    cdef Stack stack = open_stack()
    cdef bint by_hand = type(policy) is BackwardFunction
    cdef bint lite = by_hand            # does the rule work on LiteTensors?
    cdef unsigned long long wanted = 0
    cdef object result

    if stack is not None and stack.floor and not by_hand:
        capture_saved(stack, ctx)
    if stack is not None and not lite:
        for i in range(given):
            if stack.tracks(values[i]):
                lite = True
        lite = lite or tracks_saved(stack, ctx)
        if lite and not policy.verified:
            refuse_stashed_tensors(policy)
    for i in range(n):
        if (values[i] is not None) if forward else (node.slots[i] >= 0):
            wanted |= (<unsigned long long> 1) << min(i, 63)
    for i in range(given):
        if values[i] is None:
            values[i] = zeros(node, i, forward)
        if values[i] is not None and is_lite_tensor(values[i]) != lite:
            values[i] = wrap(values[i]) if lite else (<TensorBase> values[i]).data

    cdef int change = 0         # of torch's function mode, which Neo's own Policies do without
    cdef RunningRule outer = neo_rule
    cdef unsigned long long was_wanted = ctx.wanted
    cdef bint was_lite = ctx.lite, was_readable = ctx.readable
    ctx.wanted, ctx.lite, ctx.readable = wanted, lite, True
    neo_rule.kind = NO_RULE if by_hand else ON_LITE_TENSORS if lite else ON_TORCH_TENSORS
    neo_rule.tapes = 0 if stack is None else len(stack.tapes)
    neo_rule.floor = 0 if stack is None else stack.floor
    if blocks and not lite and policy.verified:
        change = switch(False)
    try:
        if forward:
            result = policy.composed_jvp(*values) if lite and not by_hand and policy.once_differentiable \
                else policy.jvp(*values)
        elif lite and not by_hand and policy.once_differentiable:
            result = policy.composed_backward(*values)
        elif given == 1:
            result = policy.backward(values[0])
        else:
            result = policy.backward(*values)
    finally:        # put back, for this may be a walk inside a backward of the same op
        neo_rule = outer
        ctx.wanted, ctx.lite, ctx.readable = was_wanted, was_lite, was_readable
        if change:
            undo(change)
    return checked_tangents(node, result) if forward else checked_gradients(node, result)


cdef object zeros(Node node, int i, bint forward):
    """What a rule gets where no cotangent (tangent) came: zeros, or None where it can do without."""
    cdef list layouts = node.layouts if forward else node.output_layouts
    if layouts is None or (node.policy.verified or type(node.policy) is BackwardFunction if forward else not node.policy.materialize):
        return None
    shape, dtype, device = layouts[i]
    if forward and not dtype.is_floating_point:
        return None
    return torch.zeros(shape, dtype=dtype, device=device)


cdef tuple checked_gradients(Node node, object result):
    """What backward returned, a gradient or None per input; those that nobody asked for left out."""
    cdef int i
    cdef tuple gradients = entries(node.policy, False, result, node.inputs)
    if node.layouts is None:
        return gradients
    cdef bint casts = casts_back(node)
    return tuple([None if gradients[i] is None or node.slots[i] < 0
                  else check_gradient(node.policy, i, gradients[i], node.layouts[i], casts) for i in range(node.inputs)])


cdef tuple checked_tangents(Node node, object result):
    """What jvp returned, a tangent or None per output."""
    cdef int i
    cdef tuple tangents = entries(node.policy, True, result, node.outputs)
    cdef list out = []
    for i in range(node.outputs):
        output = node.tensor_at(node.inputs + i)
        out.append(tangents[i] if tangents[i] is None or output is None
                   else check_tangent(node.policy, i, tangents[i], output, casts_back(node)))
    return tuple(out)


cdef bint casts_back(Node node):
    """Does the tape cast what the rule returns, as torch's engine does? Where autocast chose the dtypes it was written
    without, and for Neo's own, whose inputs may be of several."""
    return node.autocast is not None or node.policy.verified


cdef bint tracks_saved(Stack stack, Context ctx) except -1:
    """Does a recording tape track anything that forward saved (or that a replay would start from)?"""
    cdef Py_ssize_t i, first, n = len(ctx.saved)
    if n:
        first = stack.first_recording()
        for i in range(n):
            if ctx.serials[i] and stack.tracks_serial(ctx.serials[i], first):
                return True
    return ctx.arguments is not None and tracks_any(stack, ctx.arguments)


cdef int capture_saved(Stack stack, Context ctx) except -1:
    """Under a checkpoint: note the use of what forward saved before, in a session that is older than the checkpoint."""
    cdef Py_ssize_t i, first = stack.first()
    for i in range(len(ctx.saved)):
        if ctx.serials[i]:
            stack.capture(wrap_as(ctx.saved[i].detach(), ctx.serials[i]), first)
    if ctx.arguments is not None:
        capture_all(stack, ctx.arguments, first)
    return 0


cdef int capture_all(Stack stack, object values, Py_ssize_t first) except -1:
    for value in values:
        if type(value) is tuple or type(value) is list:
            capture_all(stack, value, first)
        elif is_lite_tensor(value):
            stack.capture(<TensorBase> value, first)
    return 0


cdef bint tracks_any(Stack stack, object values) except -1:
    """The same of values, among them tuples and lists of values."""
    for value in values:
        if tracks_any(stack, value) if type(value) is tuple or type(value) is list else stack.tracks(value):
            return True
    return False
