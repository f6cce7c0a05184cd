"""What passes from a Policy's forward to its backward.

Forward sees raw torch tensors. Backward sees either raw tensors or, where an outer session tracks them, LiteTensors (it
differentiates what backward does). A Context makes the two the same to the Policy: it remembers, for each saved
tensor, which input or output it was, and gives it back in the form that is wanted.
"""
cimport cython
from libc.stdint cimport int64_t
from libc.stdlib cimport free, malloc

import torch

from neo.errors import SavedTensorError
from neo.guards import require
from neo.autograd._batched import agree
from neo.autograd._hidden import holds_tensor
from neo.autograd._queries cimport UNCOUNTED, version_of
from neo.autograd._tensor cimport TensorBase, is_lite_tensor, wrap, wrap_as

cdef object Tensor = torch.Tensor
cdef object INTERMEDIATE = object()     # saved, floating-point, neither input nor output: second order must replay
cdef tuple ONE_UNWANTED = (False,)      # what needs_grad gives, for the commonest numbers of inputs
cdef tuple ONE_WANTED = (True,)
cdef tuple TWO = ((False, False), (True, False), (False, True), (True, True))


@cython.freelist(64)
cdef class Context:
    """`self.ctx` of a Policy."""

    def __cinit__(self):
        self.saved = ()
        self.replayed = -1

    def __dealloc__(self):
        if self.versions != self.few:
            free(self.versions)

    def save(self, *values):
        """Keep tensors (and any plain values) for backward, where `ctx.release` gives them back in this order."""
        if self.replayed >= 0 or self.recorded:
            self.saved = values if not self.saved else self.saved + values

    def constant(self, *values):
        """Mark tensors as constants by intention: masks, indices, random draws. Gives them back.

        No gradient flows through a constant at any order, and a replayed forward meets the same values again.
        """
        cdef list originals
        if self.replayed >= 0:
            originals = self.constants or []
            if self.replayed + len(values) > len(originals):
                raise SavedTensorError(
                    f"{self.owner.__name__}: forward, replayed for a higher order, called ctx.constant more often "
                    f"than the first time ({len(originals)} values). Make forward take the same path every time.")
            values = tuple(originals[self.replayed:self.replayed + len(values)])
            self.replayed += len(values)
        elif self.recorded:
            if self.constants is None:
                self.constants = []
            self.constants.extend(values)
        return values[0] if len(values) == 1 else values

    @property
    def needs_grad(self):
        """One bool per tensor input: does anybody need its gradient? Backward may return None where not."""
        if self.tensors == 1:
            return ONE_WANTED if self.wanted & 1 else ONE_UNWANTED
        if self.tensors == 2:
            return TWO[self.wanted & 3]
        cdef int i
        return tuple([(self.wanted >> min(i, 63)) & 1 == 1 for i in range(self.tensors)])

    @property
    def release(self):
        """What forward saved, in order: raw tensors, or LiteTensors when an outer session tracks what backward does.

        Raises SavedTensorError when a saved tensor was changed in place since, or when an outer session needs the
        derivative of a saved intermediate that cannot be had by replaying forward.
        """
        cdef Py_ssize_t i
        cdef tuple saved = self.saved
        if not self.readable:
            raise SavedTensorError(
                f"{self.owner.__name__}: ctx.release belongs in backward; forward has its tensors at hand")
        self.refuse_changed()
        if not self.lite:
            return saved
        cdef list out = []
        cdef tuple again = None
        for i in range(len(saved)):
            tensor = self.counterparts[i]
            if tensor is INTERMEDIATE:
                if again is None:
                    again = self.replay()
                out.append(again[i])
            elif tensor is not None and (<TensorBase> tensor).serial == self.serials[i]:
                out.append(tensor)
            elif tensor is not None:        # code written for torch has changed it in place: give what was saved
                out.append(wrap_as(saved[i].detach(), self.serials[i]))
            elif isinstance(saved[i], Tensor):
                out.append(wrap(saved[i].detach()))
            else:
                out.append(saved[i])
        return tuple(out)

    cdef int refuse_changed(self) except -1:
        """Rule 8: nothing that was saved may have been changed in place since."""
        cdef Py_ssize_t i
        for i in range(len(self.saved)):
            if self.versions[i] >= 0 and version_of(self.saved[i]) != self.versions[i]:
                raise SavedTensorError(
                    f"{self.owner.__name__}: saved tensor {i}, shape {tuple(self.saved[i].shape)}, was changed in place "
                    f"after it was saved (version {self.versions[i]} then, {self.saved[i]._version} now). "
                    f"Work on a clone, or save a clone.")
        return 0

    cdef int keep_arguments(self, tuple arguments, tuple raw_inputs) except -1:
        """Keep forward's arguments, for the composition of a once_differentiable Policy."""
        self.arguments = shallow_copies(arguments)
        self.inputs = [(raw, version_of(raw)) for raw in raw_inputs]
        return 0

    def lifted_arguments(self):
        """What was kept of forward's arguments, each tensor as a LiteTensor. Rule 8: none may have been changed since."""
        self.refuse_changed()
        for i, (raw, version) in enumerate(self.inputs):
            if version_of(raw) != version:
                raise SavedTensorError(
                    f"{self.owner.__name__}: input {i}, shape {tuple(raw.shape)}, was changed in place after forward, and "
                    f"its composition is differentiated now. Work on a clone.")
        return lift(self.arguments)

    cdef int seal(self, tuple arguments, tuple inputs, tuple raw_inputs, tuple outputs, tuple raw_outputs) except -1:
        """After forward: find out which saved tensor is which input or output, and note its version.

        inputs/raw_inputs: the tensor inputs as LiteTensors (or raw constants) and as the raw tensors forward saw;
        outputs/raw_outputs: what forward returned, likewise.
        """
        cdef Py_ssize_t i
        cdef object value, tensor, kept
        cdef list counterparts
        cdef bint copied
        if not self.saved and self.constants is not None:
            self.saved = tuple(self.constants)      # forward marked constants and saved nothing else: they are meant
        counterparts = [None] * len(self.saved)
        self.versions = self.few
        if len(self.saved) > 3:
            self.versions = <int64_t *> malloc(2 * len(self.saved) * sizeof(int64_t))
            if self.versions == NULL:
                raise MemoryError()
        self.serials = self.versions + len(self.saved)
        for i in range(len(self.saved)):
            value = self.saved[i]
            self.serials[i] = 0
            if not isinstance(value, Tensor):
                refuse_unsaveable(self.owner, i, value)
                self.versions[i] = -1
                continue
            self.versions[i] = version_of(value)
            copied = self.versions[i] == UNCOUNTED      # so that nobody can change what is kept
            if copied:
                with torch.inference_mode(False):
                    kept = value.clone()
                self.versions[i] = version_of(kept)
                self.saved = self.saved[:i] + (kept,) + self.saved[i + 1:]
            if self.constants is not None and contains(self.constants, value):
                tensor = None
            else:
                tensor = counterpart(value, inputs, raw_inputs)
                if tensor is INTERMEDIATE:
                    tensor = counterpart(value, outputs, raw_outputs)
                if tensor is INTERMEDIATE:
                    if value.is_floating_point():
                        self.arguments = shallow_copies(arguments)   # otherwise inputs that were not saved go free
                    else:
                        tensor = None       # integers and booleans have no derivative
            counterparts[i] = tensor
            if is_lite_tensor(tensor):
                self.serials[i] = (<TensorBase> tensor).serial
        self.counterparts = counterparts
        return 0

    def replay(self):
        """Run forward again on LiteTensors, so that saved intermediates are recorded on the outer tapes (rule 5).

        Returns what the replay saved. Costs one more forward; only a higher order over a saved intermediate pays.
        """
        name = self.owner.__name__
        remedy = ("Save only inputs and outputs and recompute the rest in backward, or mark what is a constant by "
                  "intention with ctx.constant(...).")
        policy = self.owner()
        cdef Context ctx = Context.__new__(Context)
        ctx.owner = self.owner
        ctx.constants = self.constants
        ctx.replayed = 0
        ctx.tensors = self.tensors
        ctx.wanted = self.wanted
        (<PolicyBase?> policy).ctx = ctx
        try:
            policy.forward(*lift(self.arguments))
        except Exception as error:
            raise SavedTensorError(
                f"{name}: a saved intermediate is needed at a higher order, and forward could not be replayed on "
                f"LiteTensors to differentiate it: {type(error).__name__}: {error}. {remedy}") from error
        if len(ctx.saved) != len(self.saved):
            raise SavedTensorError(f"{name}: forward saved {len(self.saved)} values, and {len(ctx.saved)} when it was "
                                   f"replayed for a higher order. Make forward take the same path every time.")
        for i in range(len(self.saved)):
            if self.counterparts[i] is not INTERMEDIATE:
                continue
            again = ctx.saved[i]
            if not is_lite_tensor(again):
                raise SavedTensorError(
                    f"{name}: saved intermediate {i} is needed at a higher order, but forward computes it outside "
                    f"Neo's functions, so its derivative is unknown. {remedy}")
            different = SavedTensorError(
                f"{name}: saved intermediate {i} came out different when forward was replayed for a higher "
                f"order; does forward draw random numbers or keep state? {remedy}")
            if again.data.shape != self.saved[i].shape:
                raise different
            require(agree(again.data, self.saved[i]), lambda: different)
        return ctx.saved


cdef tuple shallow_copies(tuple arguments):
    """arguments, with each LiteTensor as one that nobody else holds and that in-place work cannot reach."""
    cdef list out = []
    for argument in arguments:
        if is_lite_tensor(argument):
            argument = wrap_as((<TensorBase> argument).data, (<TensorBase> argument).serial)
        elif isinstance(argument, (tuple, list)):
            argument = rebuilt(argument, list(shallow_copies(tuple(argument))))
        out.append(argument)
    return tuple(out)


cdef object counterpart(object value, tuple tensors, tuple raw):
    """The tensor whose torch tensor forward knew as `value`; None for a plain constant, INTERMEDIATE for a stranger."""
    cdef Py_ssize_t i
    for i in range(len(raw)):
        if raw[i] is value:
            return tensors[i] if is_lite_tensor(tensors[i]) else None
    return INTERMEDIATE


cdef bint contains(object sequence, object value) except -1:
    """By identity."""
    for other in sequence:
        if other is value:
            return True
    return False


cdef int refuse_unsaveable(object owner, Py_ssize_t i, object value) except -1:
    """A tensor hidden in a container would be a silent constant at a higher order."""
    if is_lite_tensor(value):
        raise SavedTensorError(
            f"{owner.__name__}: ctx.save got a LiteTensor as value {i}; forward works on torch.Tensors and saves those")
    if hidden_tensor(value):
        raise SavedTensorError(
            f"{owner.__name__}: ctx.save got a {type(value).__name__} with tensors in it as value {i}, which a higher "
            f"order could not see. Save the tensors one by one: ctx.save(*tensors).")
    return 0


cdef bint hidden_tensor(object value) except -1:
    """Is there a floating-point tensor in this plain value: a list, tuple or dict, nested ones included?"""
    if isinstance(value, Tensor):
        return value.is_floating_point()
    if isinstance(value, (list, tuple)):
        return any([hidden_tensor(item) for item in value])
    if isinstance(value, dict):
        return any([hidden_tensor(item) for item in value.values()])
    return is_lite_tensor(value)


cdef str stashed(PolicyBase policy):
    """The name of an attribute in which forward kept a tensor behind the context's back; None when there is none."""
    cdef object attributes = getattr(policy, "__dict__", None)
    cdef list constants = policy.ctx.constants
    if attributes:
        for name, value in attributes.items():
            if holds_tensor(value, constants or []):
                return name
    return None


cdef object lift(object value):
    """`value` with every raw tensor in it (and in nested lists and tuples) as a LiteTensor."""
    if isinstance(value, Tensor):
        return wrap(value.detach())
    if isinstance(value, (tuple, list)):
        return rebuilt(value, [lift(item) for item in value])
    return value


cdef object rebuilt(object container, list items):
    """`items` in a list, tuple or named tuple like `container`."""
    if isinstance(container, list):
        return items
    return type(container)(*items) if hasattr(container, "_fields") else tuple(items)


cdef class PolicyBase:
    """The compiled part of Policy: a slot for its context, and what messages call its rule."""

    cdef str rule_name(self):
        return type(self).__name__

    cdef object rule(self, bint forward):
        """backward, or, where `forward`, jvp: as the user wrote it."""
        return self.jvp if forward else self.backward
