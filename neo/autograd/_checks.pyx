"""Checks of what a Policy takes and returns: its forward's inputs and outputs, its rule's gradients and tangents (rule 9).

Every error names the Policy, the argument, what came and what was expected.
"""
import torch

from neo.errors import ComplexError, GradientError, InPlaceError, SavedTensorError, SessionError
from neo.autograd._context cimport PolicyBase, stashed
from neo.autograd._queries cimport version_of
from neo.autograd._tensor cimport is_lite_tensor

cdef object Tensor = torch.Tensor
cdef object DType = torch.dtype
cdef tuple TORCH_ERRORS = (RuntimeError, TypeError, ValueError, IndexError)


# --- what a rule returned --------------------------------------------------------------------------------------------


cdef tuple entries(PolicyBase policy, bint forward, object result, int count):
    """What backward (where `forward`, jvp) returned, as one entry per tensor input (output)."""
    cdef tuple found
    if type(result) is tuple:
        found = <tuple> result
    elif isinstance(result, (tuple, list)):
        found = tuple(result)
    else:
        found = (result,)
    if len(found) == count:
        return found
    thing, whose = ("tangent", "output") if forward else ("gradient", "tensor input")
    raise wrong(policy, forward, f"expected {count} {thing}{'s' if count != 1 else ''}, one per {whose} of forward, got "
                                 f"{len(found)}. Return None where there is no {thing}.")


cdef object check_gradient(PolicyBase policy, int i, object gradient, tuple layout, bint casts):
    """A gradient has the shape, dtype and device of its input; those of Policies that broadcast are summed to it.

    casts: the tape casts what the rule returns, as torch's engine does.
    """
    shape, dtype, device = layout
    require_tensor(policy, False, i, gradient)
    if policy.broadcasts:
        if gradient.shape != shape:
            gradient = gradient.sum_to_size(shape)
        if gradient.dtype is not dtype:
            gradient = gradient.to(dtype)
    if casts and gradient.dtype is not dtype and gradient.dtype.is_floating_point:
        gradient = gradient.to(dtype)
    if gradient.shape != shape:
        raise wrong(policy, False, f"gradient {i} has shape {tuple(gradient.shape)}, expected {tuple(shape)}, the shape of "
                                   f"input {i}. Sum over the axes along which the input was broadcast.")
    if gradient.dtype is not dtype:
        raise wrong(policy, False, f"gradient {i} has dtype {gradient.dtype}, expected {dtype}, the dtype of input {i}. "
                                   f"Cast it with .to(...).")
    if gradient.device != device:
        if gradient.ndim == 0 or not shape:     # a 0-dim input may meet tensors of another device, as in torch
            return gradient.to(device)
        raise wrong(policy, False, f"gradient {i} is on {gradient.device}, expected {device}, the device of input {i}.")
    return gradient


cdef object check_tangent(PolicyBase policy, int i, object tangent, object output, bint casts):
    """A tangent has the shape, dtype and device of its output; those of Policies that broadcast are stretched to it."""
    require_tensor(policy, True, i, tangent)
    if policy.broadcasts:
        if tangent.device != output.device and tangent.ndim == 0:   # a 0-dim input may lie elsewhere, as in torch
            tangent = tangent.to(output.device)
        if tangent.dtype is not output.dtype:
            tangent = tangent.to(output.dtype)
        if tangent.shape != output.shape and stretches(tuple(tangent.shape), tuple(output.shape)):
            tangent = tangent.expand(output.shape)
    if casts and tangent.dtype is not output.dtype:
        tangent = tangent.to(output.dtype)
    if tangent.shape != output.shape or tangent.dtype is not output.dtype or tangent.device != output.device:
        raise wrong(policy, True, f"tangent {i} has shape {tuple(tangent.shape)}, {tangent.dtype}, on {tangent.device}; "
                                  f"expected {tuple(output.shape)}, {output.dtype}, on {output.device}, as output {i} has.")
    return tangent


cdef bint stretches(tuple shape, tuple target) except -1:
    """Does a tensor of `shape` broadcast to `target`?"""
    cdef Py_ssize_t i, lead = len(target) - len(shape)
    if lead < 0:
        return False
    for i in range(len(shape)):
        if shape[i] != target[lead + i] and shape[i] != 1:
            return False
    return True


cdef int require_tensor(PolicyBase policy, bint forward, int i, object value) except -1:
    if not (isinstance(value, Tensor) or is_lite_tensor(value)):
        raise wrong(policy, forward, f"{'tangent' if forward else 'gradient'} {i} must be a tensor or None, got "
                                     f"{type(value).__name__} {value!r}")
    return 0


cdef object wrong(PolicyBase policy, bint forward, str message):
    """A GradientError for the caller to raise, with a note of where the user wrote this rule: it has returned by now."""
    error = GradientError(f"{policy.rule_name()}.{'jvp' if forward else 'backward'}: {message}")
    code = getattr(policy.rule(forward), "__code__", None)
    if code is not None:
        error.add_note(f"The rule is at {code.co_filename}:{code.co_firstlineno}.")
    return error


cdef int refuse_stashed_tensors(PolicyBase policy) except -1:
    """A tensor kept on self instead of ctx.save would be a silent constant at a higher order: refuse it."""
    cdef str name = stashed(policy)
    if name is not None:
        raise SavedTensorError(
            f"{type(policy).__name__}: forward keeps the tensor self.{name}, which a higher order would take for a "
            f"constant. Keep it with self.ctx.save(...), or, if it is a constant, self.ctx.constant(...).")
    return 0


# --- what a forward took and returned --------------------------------------------------------------------------------


cdef int check_inputs(str name, tuple raw_inputs, list versions) except -1:
    """Rule 8: forward must leave its inputs as they are."""
    cdef Py_ssize_t i
    for i in range(len(raw_inputs)):
        if version_of(raw_inputs[i]) != versions[i]:
            raise InPlaceError(
                f"{name}.forward: input {i}, shape {tuple(raw_inputs[i].shape)}, was changed in place, and a "
                f"LiteTensor must never change; the one that was given holds the changed numbers now, and is to be made "
                f"anew. Work on a clone, or use the functional form of the op.")
    return 0


cdef int check_outputs(str name, tuple outputs) except -1:
    """What a Policy of the user's returned: one torch.Tensor or a tuple of them."""
    if not outputs:
        raise TypeError(f"{name}.forward: returned an empty tuple; return a torch.Tensor")
    for output in outputs:
        if is_lite_tensor(output):
            raise TypeError(f"{name}.forward: returned a LiteTensor; forward gets torch.Tensors and must "
                            f"return torch.Tensors")
        if not isinstance(output, Tensor):
            raise TypeError(f"{name}.forward: returned {type(output).__name__}, expected a torch.Tensor "
                            f"or a tuple of torch.Tensors")
        if output.is_complex():
            raise TypeError(f"{name}.forward: returned a tensor of {output.dtype}; complex numbers are not "
                            f"supported. Return the real and the imaginary part as two tensors.")
    return 0


cdef int refuse_complex(str name, object arguments) except -1:
    """Complex operands beside a LiteTensor: Neo's rules are those of real numbers, and would be silently wrong."""
    cdef object argument
    for argument in arguments:
        if is_lite_tensor(argument) or type(argument) is float or type(argument) is int:
            continue
        if isinstance(argument, (tuple, list)):
            refuse_complex(name, argument)
        elif (type(argument) is complex or (type(argument) is DType and argument.is_complex)
                or (isinstance(argument, Tensor) and argument.is_complex())):
            raise ComplexError(f"{name}: complex numbers are not supported, got {argument!r}. Keep the real and "
                               f"the imaginary part as two tensors.")
    return 0


cdef int refuse_closed_over(str name, object value) except -1:
    """A user's forward that uses a tensor past its arguments: the Policy would take it for a constant."""
    raise SessionError(
        f"{name}: a tensor of shape {tuple(value.shape)} that an open session tracks is used inside the forward "
        f"of a Policy, which knows its arguments alone, so that the gradient would be lost. Pass it to the Policy as an "
        f"argument, or use its .data for a constant.")


cdef int name_error(str name, object error) except -1:
    """Put the op's name in front of torch's words."""
    if type(error) in TORCH_ERRORS and len(error.args) == 1 and isinstance(error.args[0], str):
        if not error.args[0].startswith(name):
            error.args = (f"{name}: {error.args[0]}",)
    return 0
