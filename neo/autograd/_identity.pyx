"""Which LiteTensors are one tensor to which tapes: what a session takes, and what it gives back (rules 2 and 3).

A session differentiates fresh tensors in place of its arguments, which to the tapes around are the arguments themselves.
"""
import torch

from neo.errors import GradientError
from neo.autograd._node cimport ON_LITE_TENSORS, ON_TORCH_TENSORS, running_rule
from neo.autograd._queries cimport grad_enabled
from neo.autograd._slots cimport TensorSlots
from neo.autograd._stack cimport Stack, all_stacks, open_elsewhere, open_stack, refuse_other_threads
from neo.autograd._tensor cimport TensorBase, is_lite_tensor, wrap

cdef object Tensor = torch.Tensor


# --- what a session takes --------------------------------------------------------------------------------------------


cpdef bint differentiable(object value) except -1:
    """Would a session differentiate this: a floating-point LiteTensor, or, in a rule on torch tensors, one of those?"""
    if is_lite_tensor(value):
        return (<TensorBase> value).data.is_floating_point()
    return running_rule().kind == ON_TORCH_TENSORS and isinstance(value, Tensor) and value.is_floating_point()


cpdef TensorBase fresh_tensor(TensorBase tensor):
    """A new LiteTensor on the same data: what a session differentiates (rule 2).

    Open tapes take it for the same tensor; the session about to be opened watches the new one alone, so that a
    closed-over use of the old one is a constant to it.
    """
    cdef TensorBase fresh = wrap(tensor.data.detach())      # detach shares memory and the in-place version counter
    cdef Stack stack = open_stack()
    if open_elsewhere(stack):
        refuse_other_threads("session", stack, (tensor,))
    if stack is not None:
        if stack.floor:
            stack.capture(tensor, stack.first())
        alias(stack, fresh, tensor, stack.first_recording())
        if stack.observer is not None:
            stack.observer.renamed(fresh, tensor)
    return fresh


def fresh_tensors(list leaves not None, list originals not None, list fresh not None):
    """Put a fresh tensor in place of each floating-point LiteTensor in `leaves` (in a rule on torch tensors, of those too).

    Adds the old ones to `originals` and the new ones to `fresh`; gives the index in these for each leaf, -1 for others.
    """
    cdef Py_ssize_t i
    cdef list places = []
    cdef object leaf, tensor
    for i in range(len(leaves)):
        leaf = leaves[i]
        if differentiable(leaf):
            places.append(len(fresh))
            tensor = fresh_tensor(<TensorBase> leaf) if is_lite_tensor(leaf) else wrap(leaf.detach())
            originals.append(leaf)
            fresh.append(tensor)
            leaves[i] = tensor
        else:
            places.append(-1)
    return places


# --- what it gives back ----------------------------------------------------------------------------------------------


def full_gradients(list gradients not None, list leaves not None):
    """What a walk gave, as LiteTensors (torch tensors in a rule on those): zeros in the layout of its leaf for None."""
    cdef Py_ssize_t i
    cdef list out = []
    cdef object gradient, leaf
    for i in range(len(leaves)):
        gradient, leaf = gradients[i], leaves[i]
        if gradient is None:
            gradient = wrap(torch.zeros_like((<TensorBase> leaf).data if is_lite_tensor(leaf) else leaf))
        elif not is_lite_tensor(gradient):
            gradient = wrap(gradient.detach())
        out.append(returned(<TensorBase> gradient))
    return out


def rule_on_torch_tensors():
    """Does a rule run that works on torch tensors? Sessions in it then return torch tensors."""
    return running_rule().kind == ON_TORCH_TENSORS


def returned_tree(tree, tree_map):
    """`returned` for each LiteTensor of a pytree; tree_map: optree's."""
    if running_rule().kind != ON_TORCH_TENSORS:
        return tree
    return tree_map(lambda leaf: returned(<TensorBase> leaf) if is_lite_tensor(leaf) else leaf, tree)


cdef object returned(TensorBase value):
    """What a session returns for `value`: its torch tensor, where a rule works on those and no tape tracks the value."""
    cdef Stack stack
    rule = running_rule()
    if rule.kind != ON_TORCH_TENSORS:
        return value
    stack = open_stack()
    if stack is None:
        return value.data
    # Inside a session or checkpoint that the rule has opened, only a LiteTensor can be known to it.
    if len(stack.tapes) != rule.tapes or stack.floor != rule.floor or stack.tracks(value):
        return value
    return value.data


# --- the same tensor to the tapes around -----------------------------------------------------------------------------


cdef int alias(Stack stack, TensorBase fresh, TensorBase tensor, Py_ssize_t first) except -1:
    """Have the tapes from `first` on take `fresh` for the same tensor as `tensor`."""
    cdef Py_ssize_t i
    for i in range(first, len(stack.tapes)):
        (<TensorSlots> stack.tapes[i]).alias(fresh, tensor)
    return 0


def same_to_rule(TensorBase fresh not None, TensorBase tensor not None):
    """neo.LiteTensor(tensor) in a rule on LiteTensors: the tapes around the rule take `fresh` for the same tensor.

    So that a rule which wraps the torch tensors that it is given at first order is right at the next one, too.
    Raises GradientError where they differ in dtype or device, and a tape tracks `tensor`.
    """
    cdef Stack stack = open_stack()
    cdef Py_ssize_t i
    cdef TensorSlots tape
    rule = running_rule()
    if rule.kind != ON_LITE_TENSORS or stack is None:
        return
    for i in range(min(rule.tapes, <Py_ssize_t> len(stack.tapes))):
        tape = <TensorSlots> stack.tapes[i]
        if tape.slot_of(tensor) >= 0 and (
                fresh.data.dtype is not tensor.data.dtype or fresh.data.device != tensor.data.device):
            raise GradientError(
                f"LiteTensor: a tensor of {tensor.data.dtype} on {tensor.data.device} that an outer session differentiates "
                f"was given to neo.LiteTensor with another dtype or device inside a backward; use x.to(...), which has a "
                f"derivative.")
        tape.alias(fresh, tensor)


def overwritten(TensorBase tensor not None, data):
    """What `tensor` is after torch's code has changed its numbers under torch.no_grad: the same to every tape, on `data`."""
    cdef TensorBase fresh = wrap(data)
    cdef Stack stack = open_stack()
    if stack is not None:
        stack.capture(tensor, 0)        # a checkpoint runs again from what `tensor` is
        alias(stack, fresh, tensor, 0)
    return fresh


def tracked(TensorBase tensor not None):
    """Does an open session, of this thread or another, differentiate with respect to this tensor or what it came of?

    Under torch.no_grad none does.
    """
    cdef Stack stack
    if all_stacks() and grad_enabled():
        for stack in list(all_stacks()):
            for tape in list(stack.tapes)[stack.muted if stack is open_stack() else 0:]:
                if (<TensorSlots> tape).slot_of(tensor) >= 0:
                    return True
    return False
