"""What the engine asks torch about every tensor and in every call, answered by torch's C++ where that is at hand.

See neo/kernels/look.h. Each question has an answer in Python as well.
"""
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t

import torch
from torch._C._functorch import get_unwrapped, is_functorch_wrapped_tensor

from neo.autograd._tensor cimport TensorBase, is_lite_tensor
from neo.kernels import direct


cdef extern from "look.h":
    const char *NEO_LOOK
    ctypedef struct NeoLook:
        int64_t (*version)(PyObject *tensor)
        int (*alike)(PyObject *one, PyObject *other)
        int (*grad_enabled)()
        int (*share)(PyObject *one, PyObject *other)
        int (*alone)(PyObject *tensor)
        int (*mixed)(PyObject *tensors)
        int (*autocast)()


cdef NeoLook *look = NULL               # torch's C++, where that is at hand
if direct.look is not None:
    look = <NeoLook *> PyCapsule_GetPointer(direct.look, NEO_LOOK)

cdef object Tensor = torch.Tensor
cdef object any_autocast = torch._C._is_any_autocast_enabled


cdef int64_t version_of(object tensor) except -1:
    """How often `tensor` was changed in place (rule 8)."""
    cdef int64_t version = -1 if look == NULL else look.version(<PyObject *> tensor)
    if version >= 0:
        return version
    return UNCOUNTED if tensor.is_inference() else tensor._version


def version(tensor):
    """How often `tensor` was changed in place; -2 for one made under torch.inference_mode, which counts nothing."""
    return version_of(tensor)


cdef bint grad_enabled() except -1:
    """torch.is_grad_enabled()"""
    return torch.is_grad_enabled() if look == NULL else look.grad_enabled()


cdef bint share(object one, object other) except -1:
    """Do these torch tensors lie on one storage, so that a change of one may be a change of the other?"""
    cdef int known = -1 if look == NULL else look.share(<PyObject *> one, <PyObject *> other)
    if known >= 0:
        return known
    return storage_of(one) is not None and storage_of(one) == storage_of(other)


cdef bint alone(object tensor) except -1:
    """Is this torch tensor for certain the only one on its storage? False: perhaps not."""
    return look != NULL and look.alone(<PyObject *> tensor)


cdef object storage_of(object tensor):
    """What tells storages apart; of what stands for a whole batch under vmap, the batch's."""
    while type(tensor) is Tensor and is_functorch_wrapped_tensor(tensor):
        tensor = get_unwrapped(tensor)
    try:
        return tensor.untyped_storage()._cdata
    except (NotImplementedError, RuntimeError):     # sparse, say
        return None


cdef bint autocast_on() except -1:
    """Is torch.autocast on in this thread, for any kind of device?"""
    return any_autocast() if look == NULL else look.autocast()


def autocast_enabled():
    """Whether torch.autocast is on in this thread, for any kind of device."""
    return autocast_on()


cdef bint alike(object one, object other) except -1:
    """Are these torch tensors of one shape and dtype and, where 0-dim tensors may meet those of another, one device?"""
    cdef int known = -1 if look == NULL else look.alike(<PyObject *> one, <PyObject *> other)
    if known >= 0:
        return known
    cdef object shape = one.shape
    return other.dtype is one.dtype and other.shape == shape and (shape or other.device == one.device)


cdef bint mixed(tuple tensors) except -1:
    """Are there floating-point tensors of two dtypes among these torch tensors?"""
    cdef int known = -1 if look == NULL else look.mixed(<PyObject *> tensors)
    return known if known >= 0 else len({tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point}) > 1


def all_alike(list ones not None, list others not None):
    """Are these LiteTensors, as many here as there, each of one shape and dtype with its counterpart?"""
    cdef Py_ssize_t i
    if len(ones) != len(others):
        return False
    for i in range(len(ones)):
        if not (is_lite_tensor(ones[i]) and is_lite_tensor(others[i])
                and alike((<TensorBase> ones[i]).data, (<TensorBase> others[i]).data)):
            return False
    return True
