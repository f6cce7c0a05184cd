"""The tape: which op made which tensor, and the walk back.

A session opens a tape, watches its arguments, runs, and walks the tape back. A tensor a tape knows has a slot, a small
number; a node holds the slots of its inputs and outputs and the Policy that ran. Tensors older than the tape cannot
be on it, so that slot lookup is an array indexed by (serial - base): no hashing, and no tensor is kept alive.

References run one way, tape -> nodes -> contexts -> tensors, and tensors know nothing: no cycles (rule 6).
"""
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport int32_t, int64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memset

import torch

from neo.autograd.autocast import off as autocast_off, restored, state as autocast_state
from neo.errors import GradientError, SavedTensorError, SessionError
from neo.autograd._context cimport Context, PolicyBase, autocast_on, grad_enabled, stashed
from neo.autograd._function_mode cimport blocks, switch, undo
from neo.autograd._handle cimport Handle, is_handle, last_serial, twin, wrap
from neo.kernels import direct

cdef object Tensor = torch.Tensor
cdef object add = direct.add
cdef list stacks = []               # of every thread that has an open tape


cdef extern from *:
    """
    /* The stack of open tapes of each thread: rule 9. NULL when none is open, so an ended thread leaves nothing. */
    static _Thread_local PyObject *neo_thread_stack = NULL;
    /* The backward or jvp of a Policy that runs in this thread, the innermost one. */
    typedef struct { int kind; Py_ssize_t tapes, floor; } NeoRule;
    static _Thread_local NeoRule neo_rule = {0, 0, 0};
    """
    PyObject *neo_thread_stack
    ctypedef struct NeoRule:
        int kind                # NO_RULE, ON_TORCH_TENSORS or ON_LITE_TENSORS
        Py_ssize_t tapes, floor # the stack's, when it began
    NeoRule neo_rule


cdef enum:
    NO_RULE                     # also in hand-made nodes, whose rules always work on LiteTensors
    ON_TORCH_TENSORS            # no open tape has an interest in what the rule does
    ON_LITE_TENSORS


cdef class Node:
    """One recorded op: `Node(output, parents, bwd_fn)`.

    output: the LiteTensor it made (a tuple if several; None once it is no longer alive elsewhere).
    parents: its tensor inputs, one entry each; None for those the tape has no interest in or that are gone.
    bwd_fn: one cotangent per output -> one gradient per parent (None = no gradient).
    A Node made by hand goes on a tape with `tape.add(node)`, keeps its tensors alive, and has bwd_fn called with
    LiteTensors.
    """

    def __init__(self, output, parents, bwd_fn):
        outputs = tuple(output) if isinstance(output, (tuple, list)) else (output,)
        for value in (*outputs, *parents):
            if not is_handle(value):
                raise TypeError(f"Node: output and parents must be LiteTensors, got {type(value).__name__}")
        if not callable(bwd_fn):
            raise TypeError(f"Node: bwd_fn must be callable, got {type(bwd_fn).__name__}")
        self.given = (outputs, tuple(parents))
        self.rule = bwd_fn

    def __dealloc__(self):
        free(self.slots)

    cdef int allot(self, int inputs, int outputs) except -1:
        free(self.slots)
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
        return self.rule if self.policy is None else self.pull_back

    def pull_back(self, *cotangents):
        """bwd_fn of a recorded op: one cotangent per output -> a tuple of one gradient (or None) per parent."""
        if autocast_on():
            with autocast_off():
                return self.pull_back(*cotangents)
        if len(cotangents) != self.outputs:
            raise GradientError(f"{self.name}: expected {self.outputs} cotangents, one per output, got {len(cotangents)}")
        cdef bint lite = any([is_handle(cotangent) for cotangent in cotangents])
        gradients = run(self, list(cotangents))
        return tuple([wrap(g.detach()) if lite and isinstance(g, Tensor) else g for g in gradients])

    @property
    def name(self):
        """The Policy's name, or the name of a hand-made node's bwd_fn."""
        if self.policy is not None:
            return type(self.policy).__name__
        return getattr(self.rule, "__name__", type(self.rule).__name__)

    def __repr__(self):
        return f"Node({self.name}, slots {[self.slots[i] for i in range(self.inputs)]} -> " \
               f"{[self.slots[self.inputs + i] for i in range(self.outputs)]})"


cdef class Tape:
    """What one session records. Open it with `TapeContext.push(tape)`; `watch` the tensors it is to differentiate."""

    def __cinit__(self, bint keep_tensors=False):
        self.nodes = []
        self.tensors = []
        self.base = last_serial()
        if keep_tensors:
            self.kept = []

    def __dealloc__(self):
        free(self.table)

    def __len__(self):
        return len(self.nodes)

    def __repr__(self):
        return f"Tape({len(self.nodes)} nodes, {self.slots} tensors)"

    def __contains__(self, Handle handle):
        """Does this tape have an interest in `handle`?"""
        return self.slot_of(handle) >= 0

    cdef int32_t slot_of(self, Handle handle):
        return self.slot_of_serial(handle.serial)

    cdef int32_t slot_of_serial(self, int64_t serial):
        cdef int64_t index = serial - self.base - 1
        if index < 0:
            return -1 if self.older is None else <int32_t> self.older.get(serial, -1)
        return self.table[index] if index < self.size else -1

    cdef int32_t new_slot(self, Handle handle) except -1:
        cdef int32_t slot = self.slots
        self.set_slot(handle, slot)
        if self.kept is not None:       # a twin, for in-place work in torch code may have the handle stand for another tensor
            handle = twin(handle.data, handle.serial)
            self.kept.append(handle)
        self.tensors.append(PyWeakref_NewRef(handle, None))
        self.slots += 1
        return slot

    cdef int set_slot(self, Handle handle, int32_t slot) except -1:
        cdef int64_t index = handle.serial - self.base - 1
        cdef Py_ssize_t capacity
        cdef int32_t *table
        if index < 0:
            if self.older is None:
                self.older = {}
            self.older[handle.serial] = slot
            return 0
        if index >= self.size:
            if index >= self.capacity:
                capacity = max(64, 2 * (index + 1))
                table = <int32_t *> realloc(self.table, capacity * sizeof(int32_t))
                if table == NULL:
                    raise MemoryError()
                self.table = table
                self.capacity = capacity
            memset(self.table + self.size, 0xFF, (index + 1 - self.size) * sizeof(int32_t))    # all bits one: -1
            self.size = index + 1
        self.table[index] = slot
        return 0

    def watch(self, Handle handle not None):
        """Declare an interest in `handle`: every op on it, and on what comes of it, is recorded from now on."""
        if self.slot_of(handle) < 0:
            self.new_slot(handle)

    def add(self, Node node not None):
        """Put a hand-made node on the tape. Its outputs become known to the tape, if any of its parents is."""
        if node.given is None:
            raise ValueError("Tape.add: the node is on a tape already")
        outputs, parents = node.given
        record_call(self, node, outputs, parents)

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
        cdef list slots = [None] * self.slots
        cdef int32_t slot
        for output, cotangent in zip(outputs, cotangents, strict=True):
            slot = self.slot_of(output)
            if slot >= 0:
                if stack is not None and stack.floor and is_handle(cotangent):
                    stack.capture(<Handle> cotangent)       # raw to this walk, which nobody follows, yet used by it
                slots[slot] = cotangent if slots[slot] is None else accumulate(slots[slot], cotangent)
        wanted = [self.slot_of(value) for value in inputs]
        if stack is not None and stack.observer is not None:
            with stack.observer.walking(self):
                self.pull(slots, keep)
        else:
            self.pull(slots, keep)
        return [slots[slot] if slot >= 0 else None for slot in wanted]

    def tangents(self, inputs, tangents, outputs):
        """Push the tangents of `inputs` forward through every node; gives that of each output, None where it is zero.

        The tape must have been made with Tape(keep_tensors=True). inputs, outputs: sequences of LiteTensors; tangents:
        a LiteTensor or torch.Tensor for each input. The tape may be walked afterwards.
        Raises RuntimeError when a walk has freed the tape, GradientError for a Policy whose jvp returns what it must not.
        """
        cdef int32_t slot
        cdef Stack stack = open_stack()
        if autocast_on():
            with autocast_off():
                return self.tangents(inputs, tangents, outputs)
        if self.freed or self.kept is None:
            raise RuntimeError("Tape.tangents: the tape must have been made with keep_tensors=True, and not been freed by a "
                               "walk back")
        cdef list slots = [None] * self.slots
        for value, tangent in zip(inputs, tangents, strict=True):
            slot = self.slot_of(value)
            if slot >= 0:
                if stack is not None and stack.floor and is_handle(tangent):
                    stack.capture(<Handle> tangent)
                slots[slot] = tangent
        for node in self.nodes:
            push(<Node> node, slots)
        found = [self.slot_of(value) for value in outputs]
        return [slots[slot] if slot >= 0 else None for slot in found]

    cdef int pull(self, list cotangents, bint keep) except -1:
        """The walk: cotangents by slot, of which those of the slots that no node made remain."""
        cdef Py_ssize_t i
        cdef Node node
        cdef list nodes = self.nodes
        for i in range(len(nodes) - 1, -1, -1):
            node = <Node> nodes[i] if keep else <Node> nodes.pop()
            step(node, cotangents)
        return 0


cdef int step(Node node, list cotangents) except -1:
    """Pull the cotangents of a node's outputs back to its inputs."""
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
    cotangent = None            # run alone holds the cotangents now, and backward may free them
    gradients = run(node, bars)
    for i in range(n):
        slot = node.slots[i]
        if slot < 0:
            continue
        gradient = gradients[i]
        if gradient is not None:
            cotangent = cotangents[slot]
            cotangents[slot] = gradient if cotangent is None else accumulate(cotangent, gradient)
    return 0


cdef tuple run(Node node, list bars):
    """run_rule, under the state of torch.autocast that a user's forward ran under."""
    if node.autocast is None:
        return run_rule(node, bars)
    with restored(node.autocast):
        return run_rule(node, bars)


cdef tuple run_rule(Node node, list bars):
    """Call a node's backward with `bars`, one cotangent or None per output; gives a gradient or None per input.

    Rule 3: backward works on LiteTensors if an open tape has an interest in a cotangent or in what forward saved, else
    on raw tensors.
    """
    cdef int i, n = node.inputs
    cdef unsigned long long was_wanted, wanted = 0
    cdef bint lifted = False
    cdef bint was_lifted, was_readable
    cdef Stack stack = open_stack()
    cdef Context ctx
    cdef object result
    cdef tuple gradients
    cdef NeoRule outer = neo_rule
    cdef int change = 0         # of torch's function mode, which Neo's own Policies do without

    if node.policy is None:
        lifted = True           # hand-made nodes speak LiteTensor
    elif stack is not None:
        ctx = node.policy.ctx
        for i in range(node.outputs):
            if stack.listens(bars[i]):
                lifted = True
        if not lifted:
            lifted = saved_listened(stack, ctx)
        if lifted:
            refuse_stashed_tensors(node.policy)
    for i in range(node.outputs):
        if bars[i] is None:
            if node.policy is not None and not node.policy.materialize:
                continue
            shape, dtype, device = node.output_layouts[i]
            bars[i] = torch.zeros(shape, dtype=dtype, device=device)
        if lifted:
            if not is_handle(bars[i]):
                bars[i] = wrap(bars[i])
        elif is_handle(bars[i]):
            bars[i] = (<Handle> bars[i]).data

    if node.policy is None:
        begin_rule(stack, NO_RULE)
        try:
            result = node.rule(*bars)
        finally:
            end_rule(outer)
    else:
        for i in range(n):
            if node.slots[i] >= 0:
                wanted |= (<unsigned long long> 1) << min(i, 63)
        ctx = node.policy.ctx
        was_wanted, was_lifted, was_readable = ctx.wanted, ctx.lifted, ctx.readable
        ctx.wanted, ctx.lifted, ctx.readable = wanted, lifted, True
        begin_rule(stack, ON_LITE_TENSORS if lifted else ON_TORCH_TENSORS)
        if blocks and not lifted and node.policy.verified:
            change = switch(False)
        try:
            if lifted and node.policy.once_differentiable:
                result = node.policy.composed_backward(*bars)
            else:
                result = node.policy.backward(bars[0]) if node.outputs == 1 else node.policy.backward(*bars)
        finally:        # put back, for this may be a walk inside a backward of the same op
            end_rule(outer)
            ctx.wanted, ctx.lifted, ctx.readable = was_wanted, was_lifted, was_readable
            if change:
                undo(change)
    gradients = as_gradients(node, result)
    if node.layouts is not None:
        gradients = tuple([None if gradients[i] is None or node.slots[i] < 0 else check(node, i, gradients[i])
                           for i in range(n)])
    return gradients


cdef int push(Node node, list tangents) except -1:
    """Push the tangents of a node's inputs forward to its outputs."""
    cdef int i, n = node.inputs
    cdef bint any_tangent = False
    cdef list dots = [None] * n
    for i in range(n):
        if node.slots[i] >= 0:
            dots[i] = tangents[node.slots[i]]
            any_tangent = any_tangent or dots[i] is not None
    if not any_tangent:
        return 0
    cdef bint own_rule = node.policy is not None and node.policy.jvp is not None
    cdef list moved = forward_rule(node, dots) if own_rule else transposed(node, dots)
    for i in range(node.outputs):
        if node.slots[n + i] >= 0:
            tangents[node.slots[n + i]] = moved[i]
    return 0


cdef list forward_rule(Node node, list dots):
    """The Policy's own jvp; rule 3 holds for it as for backward."""
    cdef int i
    cdef bint lifted = False
    cdef bint was_lifted, was_readable
    cdef unsigned long long was_wanted, wanted = 0
    cdef Stack stack = open_stack()
    cdef Context ctx = node.policy.ctx
    if stack is not None:
        lifted = saved_listened(stack, ctx) or any([stack.listens(dot) for dot in dots])
        if lifted:
            refuse_stashed_tensors(node.policy)
    for i in range(node.inputs):
        if dots[i] is not None:
            wanted |= (<unsigned long long> 1) << min(i, 63)
        elif node.layouts is not None:
            shape, dtype, device = node.layouts[i]
            dots[i] = torch.zeros(shape, dtype=dtype, device=device) if dtype.is_floating_point else None
        if dots[i] is not None and lifted != is_handle(dots[i]):
            dots[i] = wrap(dots[i].detach()) if lifted else (<Handle> dots[i]).data
    was_wanted, was_lifted, was_readable = ctx.wanted, ctx.lifted, ctx.readable
    ctx.wanted, ctx.lifted, ctx.readable = wanted, lifted, True
    cdef NeoRule outer = neo_rule
    begin_rule(stack, ON_LITE_TENSORS if lifted else ON_TORCH_TENSORS)
    try:
        if node.autocast is None:
            result = node.policy.jvp(*dots)
        else:
            with restored(node.autocast):
                result = node.policy.jvp(*dots)
    finally:
        end_rule(outer)
        ctx.wanted, ctx.lifted, ctx.readable = was_wanted, was_lifted, was_readable
    result = list(result) if isinstance(result, (tuple, list)) else [result]
    if len(result) != node.outputs:
        raise wrong(
            node.policy.jvp,
            f"{node.name}.jvp: expected {node.outputs} tangent{'s' if node.outputs != 1 else ''}, one per output of "
            f"forward, got {len(result)}. Return None where there is no tangent.")
    for i in range(node.outputs):
        output = node.tensor_at(node.inputs + i)
        if result[i] is None or output is None:
            continue
        if not (isinstance(result[i], Tensor) or is_handle(result[i])):
            raise wrong(node.policy.jvp, f"{node.name}.jvp: tangent {i} must be a tensor or None, got "
                                         f"{type(result[i]).__name__} {result[i]!r}")
        if result[i].dtype is not output.dtype and casts_back(node):
            result[i] = result[i].to(output.dtype)
        if layout(result[i]) != layout(output):
            raise wrong(
                node.policy.jvp,
                f"{node.name}.jvp: tangent {i} has shape {tuple(result[i].shape)}, {result[i].dtype}, on "
                f"{result[i].device}; expected {tuple(output.shape)}, {output.dtype}, on {output.device}, as output {i} "
                f"has.")
    return result


cdef object wrong(object rule, str message):
    """A GradientError for the caller to raise, with a note of where the user wrote this rule: it has returned by now."""
    error = GradientError(message)
    code = getattr(rule, "__code__", None)
    if code is not None:
        error.add_note(f"The rule is at {code.co_filename}:{code.co_firstlineno}.")
    return error


cdef list transposed(Node node, list dots):
    """A tangent for each output, by the rule for gradients alone: v ↦ Jᵀ v is linear, and its transpose is J.

    Backward runs on ones (anything would do, but at zero a rule may take another path), recorded on a tape of its own,
    which is then walked back with the tangents of the inputs.
    """
    cdef int i
    cdef Tape tape = Tape()
    cdef list bars = [None] * node.outputs
    for i in range(node.outputs):
        output = node.tensor_at(node.inputs + i)
        if output is not None:      # None for integers; others are alive, for the tape keeps them
            bars[i] = wrap(torch.ones_like((<Handle> output).data))
            tape.watch(bars[i])
    TapeContext.push(tape)
    try:
        gradients = run(node, list(bars))
    finally:
        TapeContext.pop()
    cdef list pulled = [i for i in range(node.inputs) if dots[i] is not None and is_handle(gradients[i])]
    moved = tape.gradients([gradients[i] for i in pulled], [dots[i] for i in pulled],
                           [bar for bar in bars if bar is not None])
    return [None if bar is None else moved.pop(0) for bar in bars]


cdef object accumulate(object a, object b):
    """The sum of two cotangents, either of which may be a LiteTensor: then the sum is one and is recorded."""
    return add(b, a) if is_handle(b) else add(a, b)


cdef tuple as_gradients(Node node, object result):
    """What backward returned, as one entry per tensor input. Rule 9: a wrong number raises."""
    cdef tuple gradients
    if type(result) is tuple:
        gradients = <tuple> result
    elif type(result) is list:
        gradients = tuple(result)
    else:
        gradients = (result,)
    if len(gradients) == node.inputs:
        return gradients
    raise wrong(
        rule_of(node),
        f"{node.name}.backward: expected {node.inputs} gradient{'s' if node.inputs != 1 else ''}, one per tensor "
        f"input of forward, got {len(gradients)}. Return None where there is no gradient.")


cdef object rule_of(Node node):
    return node.rule if node.policy is None else node.policy.backward


cdef object check(Node node, int i, object gradient):
    """Rule 9: a gradient has the shape, dtype and device of its input; Policies that broadcast are summed to it."""
    layout = node.layouts[i]
    if layout is None:
        return gradient
    shape, dtype, device = layout
    if not (isinstance(gradient, Tensor) or is_handle(gradient)):
        raise wrong(
            rule_of(node),
            f"{node.name}.backward: gradient {i} must be a tensor or None, got {type(gradient).__name__} {gradient!r}")
    if node.policy is not None and node.policy.broadcasts:
        if gradient.shape != shape:
            gradient = gradient.sum_to_size(shape)
        if gradient.dtype is not dtype:
            gradient = gradient.to(dtype)
    if gradient.dtype is not dtype and casts_back(node) and gradient.dtype.is_floating_point:
        gradient = gradient.to(dtype)
    if gradient.shape != shape:
        raise wrong(
            rule_of(node),
            f"{node.name}.backward: gradient {i} has shape {tuple(gradient.shape)}, expected {tuple(shape)}, "
            f"the shape of input {i}. Sum over the axes along which the input was broadcast.")
    if gradient.dtype is not dtype:
        raise wrong(
            rule_of(node),
            f"{node.name}.backward: gradient {i} has dtype {gradient.dtype}, expected {dtype}, the dtype of "
            f"input {i}. Cast it with .to(...).")
    if gradient.device != device:
        if gradient.ndim == 0 or not shape:     # a 0-dim input may meet tensors of another device, as in torch
            return gradient.to(device)
        raise wrong(
            rule_of(node),
            f"{node.name}.backward: gradient {i} is on {gradient.device}, expected {device}, the device of input {i}.")
    return gradient


cdef bint casts_back(Node node):
    """Does the tape cast what the rule returns, as torch's engine does? Where autocast chose the dtypes it was written
    without, and for Neo's own, whose inputs may be of several."""
    return node.autocast is not None or (node.policy is not None and node.policy.verified)


cdef bint saved_listened(Stack stack, Context ctx) except -1:
    """Does an open tape have an interest in anything that forward saved (or that a replay would start from)?"""
    cdef Py_ssize_t i
    for i in range(len(ctx.saved)):
        if ctx.serials[i] and stack.tracks(ctx.serials[i]):
            return True
    if ctx.arguments is not None:
        for argument in flat(ctx.arguments):
            if stack.listens(argument):
                return True
    return False


cdef list flat(tuple arguments):
    cdef list out = []
    for argument in arguments:
        if type(argument) is tuple or type(argument) is list:
            out.extend(flat(tuple(argument)))
        else:
            out.append(argument)
    return out


cdef int refuse_stashed_tensors(PolicyBase policy) except -1:
    """A tensor kept on self instead of ctx.save would be a silent constant at a higher order: refuse it."""
    cdef str name = stashed(policy)
    if name is not None:
        raise SavedTensorError(
            f"{type(policy).__name__}: forward keeps the tensor self.{name}, which a higher order would take for a "
            f"constant. Keep it with self.ctx.save(...), or, if it is a constant, self.ctx.constant(...).")
    return 0


cdef int record_call(Tape tape, Node node, tuple outputs, tuple parents) except -1:
    """Put a node with a plain bwd_fn on a tape, if the tape has an interest in a parent."""
    cdef int i
    cdef bint interest = False
    node.allot(len(parents), len(outputs))
    for i in range(node.inputs):
        node.slots[i] = tape.slot_of(<Handle?> parents[i])
        interest = interest or node.slots[i] >= 0
    if not interest:
        return 0
    node.layouts = [layout(parent) for parent in parents]
    node.autocast = autocast_state() if autocast_on() else None
    node.output_layouts = [layout(output) for output in outputs]
    for i in range(node.outputs):
        node.slots[node.inputs + i] = tape.new_slot(<Handle?> outputs[i])
    node.tensors = tape.tensors
    tape.nodes.append(node)
    return 1


cdef tuple layout(object tensor):
    return tensor.shape, tensor.dtype, tensor.device


cdef class Stack:
    """The open tapes of one thread."""

    def __cinit__(self):
        self.tapes = []
        self.captured = {}

    cdef Py_ssize_t first(self) except -1:
        """The outermost tape that what runs now may be recorded on: none under torch.no_grad (rule 11)."""
        return self.muted if grad_enabled() else len(self.tapes)

    cdef bint listens(self, object value) except -1:
        """Does any open tape have an interest in `value`?"""
        return self.tracks((<Handle> value).serial) if is_handle(value) else False

    cdef bint tracks(self, int64_t serial) except -1:
        cdef Py_ssize_t i
        for i in range(max(self.floor, self.first()), len(self.tapes)):
            if (<Tape> self.tapes[i]).slot_of_serial(serial) >= 0:
                return True
        return False

    cdef int capture(self, Handle handle) except -1:
        """Under a checkpoint: note a tensor that a suspended tape has an interest in."""
        cdef Py_ssize_t i
        for i in range(self.first(), self.floor):
            if (<Tape> self.tapes[i]).slot_of(handle) >= 0:
                self.captured[handle.serial] = twin(handle.data.detach(), handle.serial)
                break
        return 0


cdef Stack open_stack():
    return None if neo_thread_stack == NULL else <Stack> neo_thread_stack


cdef bint open_elsewhere(Stack stack):
    """Has a thread other than this one an open tape?"""
    return len(stacks) > (0 if stack is None else 1)


cdef int refuse_other_threads(str name, Stack stack, object inputs) except -1:
    """Rule 13: what a session of another thread differentiates would be a silent constant here."""
    cdef Stack other
    if not grad_enabled():
        return 0
    for other in list(stacks):
        if other is stack:
            continue
        for tape in list(other.tapes):
            for value in inputs:
                if is_handle(value) and (<Tape> tape).slot_of(<Handle> value) >= 0:
                    raise SessionError(
                        f"{name}: a tensor of shape {tuple(value.shape)} is differentiated by a session that another "
                        f"thread has open, which cannot record what happens in this one. Run the whole session in one "
                        f"thread (a value_and_grad for each task, in the thread of its task), or pass tensor.detach() "
                        f"for a constant.")
    return 0


cdef object open_modes(Stack stack):
    """Leave torch's no_grad and inference modes for the time of a session, which they change nothing for (rule 11).

    Tapes that are open outside of them record nothing meanwhile. Gives what close_modes undoes.
    """
    cdef object guard = None
    stack.muted = len(stack.tapes)
    if torch.is_inference_mode_enabled():
        guard = torch.inference_mode(False)
        guard.__enter__()
    was = torch.is_grad_enabled()
    torch._C._set_grad_enabled(True)
    return was, guard


cdef int close_modes(object modes) except -1:
    was, guard = modes
    torch._C._set_grad_enabled(was)
    if guard is not None:
        guard.__exit__(None, None, None)
    return 0


cdef void begin_rule(Stack stack, int kind) noexcept:
    """Note that a rule begins. Rule 3: sessions in it must mean the same on torch tensors as on LiteTensors."""
    neo_rule.kind = kind
    neo_rule.tapes = 0 if stack is None else len(stack.tapes)
    neo_rule.floor = 0 if stack is None else stack.floor


cdef void end_rule(NeoRule outer) noexcept:
    global neo_rule
    neo_rule = outer


cdef object handed_back(Handle value):
    """What a session gives for `value`: its torch tensor, where a rule works on those and nobody tracks the value."""
    cdef Stack stack
    if neo_rule.kind != ON_TORCH_TENSORS:
        return value
    stack = open_stack()
    if stack is None:
        return value.data
    # Inside a session or checkpoint that the rule has opened, only a LiteTensor can be known to it.
    if len(stack.tapes) != neo_rule.tapes or stack.floor != neo_rule.floor or stack.listens(value):
        return value
    return value.data


def handed_back_tree(tree, tree_map):
    """`handed_back` for each LiteTensor of a pytree; tree_map: optree's."""
    if neo_rule.kind != ON_TORCH_TENSORS:
        return tree
    return tree_map(lambda leaf: handed_back(<Handle> leaf) if is_handle(leaf) else leaf, tree)


cpdef bint differentiable(object value) except -1:
    """Would a session differentiate this: a floating-point LiteTensor, or, in a rule on torch tensors, one of those?"""
    if is_handle(value):
        return (<Handle> value).data.is_floating_point()
    return neo_rule.kind == ON_TORCH_TENSORS and isinstance(value, Tensor) and value.is_floating_point()


def same_to_rule(Handle fresh not None, Handle handle not None):
    """neo.LiteTensor(handle) in a rule on LiteTensors: the tapes around the rule take `fresh` for the same tensor.

    So that a rule which wraps the torch tensors that it is given at first order is right at the next one, too.
    Raises GradientError where they differ in dtype or device, and a tape has an interest in `handle`.
    """
    cdef Stack stack = open_stack()
    cdef Py_ssize_t i
    cdef int32_t slot
    if neo_rule.kind != ON_LITE_TENSORS or stack is None:
        return
    for i in range(min(neo_rule.tapes, <Py_ssize_t> len(stack.tapes))):
        slot = (<Tape> stack.tapes[i]).slot_of(handle)
        if slot < 0:
            continue
        if fresh.data.dtype is not handle.data.dtype or fresh.data.device != handle.data.device:
            raise GradientError(
                f"LiteTensor: a tensor of {handle.data.dtype} on {handle.data.device} that an outer session differentiates "
                f"was given to neo.LiteTensor with another dtype or device inside a backward; use x.to(...), which has a "
                f"derivative.")
        (<Tape> stack.tapes[i]).set_slot(fresh, slot)


class TapeContext:
    """This thread's stack of open tapes."""

    @staticmethod
    def push(Tape tape not None):
        """Open `tape`: it records until it is popped. torch.no_grad and inference_mode around it change nothing for it."""
        global neo_thread_stack
        cdef Stack stack = open_stack()
        if stack is None:
            stack = Stack()
            Py_INCREF(stack)
            neo_thread_stack = <PyObject *> stack
            stacks.append(stack)
        tape.muted = stack.muted
        tape.modes = None if grad_enabled() else open_modes(stack)
        stack.tapes.append(tape)
        if stack.observer is not None:
            stack.observer.opened(tape)

    @staticmethod
    def pop():
        """Close the innermost open tape and return it. Raises IndexError when none is open."""
        global neo_thread_stack
        cdef Stack stack = open_stack()
        if stack is None or len(stack.tapes) <= stack.floor:
            raise IndexError("TapeContext.pop: no tape is open in this thread")
        cdef Tape tape = stack.tapes.pop()
        stack.muted = tape.muted
        if tape.modes is not None:
            close_modes(tape.modes)
            tape.modes = None
        if stack.observer is not None:
            stack.observer.closed(tape)
        if not stack.tapes:
            stacks.remove(stack)
            neo_thread_stack = NULL
            Py_DECREF(stack)
        return tape

    @staticmethod
    def current():
        """The innermost open tape, None when there is none."""
        cdef Stack stack = open_stack()
        if stack is None or len(stack.tapes) <= stack.floor:
            return None
        return stack.tapes[len(stack.tapes) - 1]


def fresh_handle(Handle handle not None):
    """A new handle on the same data: what a session differentiates (rule 2).

    Open tapes take it for the same tensor; the session about to be opened watches the new handle alone, so that
    a closed-over use of the old one is a constant to it.
    """
    cdef Handle fresh = wrap(handle.data.detach())      # detach shares memory and the in-place version counter
    cdef Stack stack = open_stack()
    if open_elsewhere(stack):
        refuse_other_threads("session", stack, (handle,))
    if stack is not None:
        if stack.floor:
            stack.capture(handle)
        alias(stack, fresh, handle, max(stack.floor, stack.first()))
        if stack.observer is not None:
            stack.observer.renamed(fresh, handle)
    return fresh


cdef int alias(Stack stack, Handle fresh, Handle handle, Py_ssize_t first) except -1:
    """Have the tapes from `first` on take `fresh` for the same tensor as `handle`."""
    cdef Py_ssize_t i
    cdef int32_t slot
    cdef Tape tape
    for i in range(first, len(stack.tapes)):
        tape = <Tape> stack.tapes[i]
        slot = tape.slot_of(handle)
        if slot >= 0:
            tape.set_slot(fresh, slot)
    return 0


def overwritten(Handle handle not None, data):
    """What `handle` is after torch's code has changed its numbers under torch.no_grad: the same to every tape, on `data`."""
    cdef Handle fresh = wrap(data)
    cdef Stack stack = open_stack()
    if stack is not None:
        for i in range(stack.floor):        # a checkpoint runs again from what `handle` is
            if (<Tape> stack.tapes[i]).slot_of(handle) >= 0:
                stack.captured[handle.serial] = twin(handle.data.detach(), handle.serial)
        alias(stack, fresh, handle, 0)
    return fresh


def tracked(Handle handle not None):
    """Does an open session, of this thread or another, differentiate with respect to this tensor or what it came of?

    Under torch.no_grad none does.
    """
    cdef Stack stack
    if stacks and grad_enabled():
        for stack in list(stacks):
            for tape in list(stack.tapes)[stack.muted if stack is open_stack() else 0:]:
                if (<Tape> tape).slot_of(handle) >= 0:
                    return True
    return False


def fresh_handles(list leaves not None, list originals not None, list fresh not None):
    """Put a fresh handle in place of each floating-point LiteTensor in `leaves` (in a rule on torch tensors, of those too).

    Adds the old ones to `originals` and the new ones to `fresh`; gives the index in these for each leaf, -1 for others.
    """
    cdef Py_ssize_t i
    cdef list places = []
    cdef object leaf, handle
    for i in range(len(leaves)):
        leaf = leaves[i]
        if differentiable(leaf):
            places.append(len(fresh))
            handle = fresh_handle(<Handle> leaf) if is_handle(leaf) else wrap(leaf.detach())
            originals.append(leaf)
            fresh.append(handle)
            leaves[i] = handle
        else:
            places.append(-1)
    return places


def full_gradients(list gradients not None, list leaves not None):
    """What a walk gave, as LiteTensors (torch tensors in a rule on those): zeros in the layout of its leaf for None."""
    cdef Py_ssize_t i
    cdef list out = []
    cdef object gradient, leaf
    for i in range(len(leaves)):
        gradient, leaf = gradients[i], leaves[i]
        if gradient is None:
            gradient = wrap(torch.zeros_like((<Handle> leaf).data if is_handle(leaf) else leaf))
        elif not is_handle(gradient):
            gradient = wrap(gradient.detach())
        out.append(handed_back(<Handle> gradient))
    return out


def suspended(fn):
    """Run fn() with every open tape suspended; for checkpoint.

    fn must return (list of leaves, anything). What it does is recorded nowhere, except on tapes that it opens itself.
    Returns fn's result and the list of LiteTensors it took from the suspended tapes.
    """
    cdef Stack stack = open_stack()
    cdef Py_ssize_t floor
    cdef dict outer, taken
    if stack is None:
        return fn(), []
    floor, outer = stack.floor, stack.captured
    stack.floor, stack.captured = len(stack.tapes), {}
    try:
        result = fn()
        for leaf in result[0]:
            if is_handle(leaf):
                stack.capture(leaf)
        taken = stack.captured
    finally:
        stack.floor, stack.captured = floor, outer
    if floor:       # a checkpoint within a checkpoint: what the inner one took, the outer one took too
        for handle in taken.values():
            stack.capture(handle)
    return result, list(taken.values())


def record(outputs, parents, bwd_fn):
    """Record bwd_fn as the gradient rule from `outputs` to `parents` on every open tape with an interest."""
    cdef Stack stack = open_stack()
    cdef Py_ssize_t i
    cdef int recorded = 0
    if stack is None:
        return
    for i in range(max(stack.floor, stack.first()), len(stack.tapes)):
        recorded += record_call(<Tape> stack.tapes[i], Node(outputs, parents, bwd_fn), tuple(outputs), tuple(parents))
    if recorded and stack.observer is not None:
        stack.observer.recorded(bwd_fn, None, tuple(parents), tuple(parents), tuple(outputs))


def listened(values):
    """For each of these LiteTensors, whether an open tape has an interest in it; a checkpoint around notes its use."""
    cdef Stack stack = open_stack()
    if stack is not None and stack.floor:
        for value in values:
            stack.capture(<Handle?> value)
    return [stack is not None and stack.listens(value) for value in values]


def observe(observer):
    """Have `observer` (autograd.trace.Trace) told what this thread's tapes record, until the last of them closes.

    None: nobody. Gives the observer before it. Raises RuntimeError when no tape is open.
    """
    cdef Stack stack = open_stack()
    if stack is None:
        raise RuntimeError("observe: no tape is open in this thread")
    before, stack.observer = stack.observer, observer
    return before
