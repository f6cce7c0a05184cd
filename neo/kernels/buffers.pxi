"""What every entry of the kernels checks before it touches memory: each tensor's dtype, shape, layout and storage.

A kernel call is opened with `begin`; `lead` takes its first image, whose dtype and sizes the others must fit; each other
tensor goes through `operand`, by way of `image`, `weights` or `places` where it is one, which give its address or raise
KernelArgumentError; `refuse_overlaps` then looks for outputs that share memory with anything else. That costs tens of
nanoseconds a tensor where torch's C++ describes them (direct_buffers.h), microseconds elsewhere.
"""
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint8_t, uintptr_t

import torch
from neo.errors import KernelArgumentError


cdef extern from "buffer.h" nogil:
    const char *NEO_DESCRIBE
    enum: NEO_FLOAT, NEO_DOUBLE, NEO_BYTE, NEO_OTHER
    ctypedef struct NeoBuffer:
        char *data
        int64_t bytes
        int dtype
        int dims
        int64_t size[4]
        int64_t stride[4]
    ctypedef int (*NeoDescribe)(object tensor, NeoBuffer *buffer) except -1
    const int *PLAIN_4 "NEO_PLAIN_4"
    const int *PLAIN_2 "NEO_PLAIN_2"
    const int *PLAIN_1 "NEO_PLAIN_1"
    const int *CHANNELS_LAST "NEO_CHANNELS_LAST"
    bint neo_dense(const NeoBuffer *buffer, const int *order, int64_t *bytes)


cdef enum:
    MOST = 28           # tensors of a kernel
    ANY = -1            # a size that the tensor itself says
    READ = 0
    WRITTEN = 1
    OPTIONAL = 2        # None will do

cdef struct Call:
    int dtype                   # of the images: NEO_FLOAT or NEO_DOUBLE
    long n, channels, h, w      # of the first image
    NeoBuffer last              # the tensor that was looked at last
    int count
    void *name[MOST]            # of each tensor, a str that this module holds
    uintptr_t first[MOST]       # where it begins and ends, and whether it is written
    uintptr_t end[MOST]
    bint written[MOST]

cdef dict DTYPES = {torch.float32: NEO_FLOAT, torch.float64: NEO_DOUBLE, torch.uint8: NEO_BYTE}
cdef tuple NAMES = ("float32", "float64", "uint8")
cdef tuple PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
cdef object STRIDED = torch.strided
cdef NeoDescribe by_torch = NULL


def use_describe(capsule):
    """Tensors are described by this capsule of _direct; None: by their Python attributes."""
    global by_torch
    by_torch = NULL if capsule is None else (<NeoDescribe *> PyCapsule_GetPointer(capsule, NEO_DESCRIBE))[0]


cdef int by_attributes(object tensor, NeoBuffer *b) except -1:
    cdef tuple size, stride
    if type(tensor) not in PLAIN_TYPES:
        return 0
    try:
        if not tensor.is_cpu or tensor.layout is not STRIDED or tensor.is_nested or tensor.is_neg() or tensor.is_conj():
            return 0
        size, stride = tuple(tensor.shape), tensor.stride()
        b.data = <char *> <uintptr_t> tensor.data_ptr()     # raises for a wrapper, which has no memory
        b.bytes = tensor.untyped_storage().nbytes() - tensor.storage_offset() * tensor.itemsize
    except (RuntimeError, NotImplementedError):
        return 0
    b.dtype = DTYPES.get(tensor.dtype, NEO_OTHER)
    b.dims = len(size)
    for i in range(min(b.dims, 4)):
        b.size[i], b.stride[i] = size[i], stride[i]
    return 1


cdef inline int look_at(object tensor, NeoBuffer *b) except -1:
    return by_torch(tensor, b) if by_torch != NULL else by_attributes(tensor, b)


def readable(tensor):
    """Whether a tensor's memory holds its numbers, float32 or float64, as they are: what `contiguous` gives is then dense."""
    cdef NeoBuffer b
    return (look_at(tensor, &b) == 1 and b.dtype <= NEO_DOUBLE and b.data != NULL
            and <uintptr_t> b.data % (8 if b.dtype == NEO_DOUBLE else 4) == 0)


def takes(x):
    """Whether x (n, channels, h, w) can be the image of a kernel: float32 or float64 in the CPU's memory, channels-last,
    not empty, channels that fill whole vectors."""
    cdef NeoBuffer b
    cdef int64_t bytes = 0
    return (look_at(x, &b) == 1 and b.dims == 4 and b.dtype <= NEO_DOUBLE
            and b.size[1] % lanes(b.dtype) == 0 and neo_dense(&b, CHANNELS_LAST, &bytes))


cdef inline long lanes(int dtype) noexcept:
    return VECTOR_BYTES // (8 if dtype == NEO_DOUBLE else 4)


cdef int begin(Call *call) noexcept:
    call.count = 0
    call.dtype = NEO_OTHER
    return 0


cdef object shown(object value):
    """What a tensor is, for an error."""
    if not isinstance(value, torch.Tensor):
        return f"{type(value).__name__} {value!r}"[:80]
    try:
        told = f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} on {value.device}"
        if value.layout is not STRIDED:
            return f"{told}, {value.layout}"
        told = f"{told}, strides {value.stride()}"
        if value.is_neg():
            told += ", with its negative bit set"
        return told if type(value) in PLAIN_TYPES else f"{type(value).__name__} {told}"
    except RuntimeError as error:       # a nested tensor has no shape
        return f"{type(value).__name__} ({str(error).splitlines()[0]})"


cdef int refuse(str kernel, str name, str expected, object got) except -1:
    raise KernelArgumentError(f"neo.kernels {kernel}: {name} must be {expected}, got {shown(got)}")


cdef str shape_words(int dims, long n, long c, long h, long w):
    return "(" + ", ".join("*" if size == ANY else str(size) for size in (n, c, h, w)[:dims]) + ("," if dims == 1 else "") + ")"


cdef void *operand(Call *call, str kernel, str name, object tensor, int dtype, const int *order, int dims, long n,
                   long c, long h, long w, int role) except? NULL:
    """The address of a tensor of this dtype, shape and order of dims; NULL for None where the role is OPTIONAL."""
    cdef NeoBuffer *b = &call.last
    cdef int64_t bytes = 0
    cdef bint fits
    if tensor is None and role & OPTIONAL:
        return NULL
    fits = look_at(tensor, b) == 1 and b.dtype == dtype and b.dims == dims and neo_dense(b, order, &bytes)
    if fits and dims > 0 and n != ANY:
        fits = b.size[0] == n
    if fits and dims > 1 and c != ANY:
        fits = b.size[1] == c
    if fits and dims > 2 and h != ANY:
        fits = b.size[2] == h
    if fits and dims > 3 and w != ANY:
        fits = b.size[3] == w
    if not fits:
        refuse(kernel, name, f"{NAMES[dtype]} of shape {shape_words(dims, n, c, h, w)}, not empty, "
               f"{'channels-last' if order == CHANNELS_LAST else 'contiguous'}, on the CPU", tensor)
    if call.count >= MOST:
        raise SystemError(f"neo.kernels {kernel}: more tensors than {MOST}")
    call.name[call.count] = <void *> name
    call.first[call.count] = <uintptr_t> b.data
    call.end[call.count] = <uintptr_t> b.data + bytes
    call.written[call.count] = role & WRITTEN
    call.count += 1
    return b.data


cdef void *lead(Call *call, str kernel, str name, object tensor, bint last, int role) except? NULL:
    """The address of the image that says the call's dtype and sizes, of 4 dims: channels-last, or else planes."""
    cdef void *found
    if look_at(tensor, &call.last) != 1 or call.last.dtype > NEO_DOUBLE:
        refuse(kernel, name, "float32 or float64 of 4 dims, on the CPU", tensor)
    call.dtype = call.last.dtype
    found = operand(call, kernel, name, tensor, call.dtype, CHANNELS_LAST if last else PLAIN_4, 4, ANY, ANY, ANY, ANY, role)
    call.n, call.channels, call.h, call.w = call.last.size[0], call.last.size[1], call.last.size[2], call.last.size[3]
    if last:
        fill_vectors(call, kernel, name, call.channels)
    return found


cdef int fill_vectors(Call *call, str kernel, str name, long channels) except -1:
    if channels % lanes(call.dtype):
        raise KernelArgumentError(f"neo.kernels {kernel}: the channels of {name} must be a multiple of "
                                  f"{lanes(call.dtype)} for {NAMES[call.dtype]}, got {channels}")
    return 0


cdef void *image(Call *call, str kernel, str name, object tensor, long n, long c, long h, long w,
                 int role) except? NULL:
    """The address of a channels-last image whose channels fill vectors."""
    cdef void *found = operand(call, kernel, name, tensor, call.dtype, CHANNELS_LAST, 4, n, c, h, w, role)
    if found != NULL:
        fill_vectors(call, kernel, name, call.last.size[1])
    return found


cdef void *weights(Call *call, str kernel, str name, object tensor, long outputs, long inputs, bint last,
                   int role) except? NULL:
    """The address of the weights of a 3x3 convolution, (outputs, inputs, 3, 3); of channels-last ones both fill vectors."""
    cdef void *found = operand(call, kernel, name, tensor, call.dtype, CHANNELS_LAST if last else PLAIN_4, 4, outputs,
                               inputs, 3, 3, role)
    if found != NULL:
        fill_vectors(call, kernel, name, call.last.size[0])
    return found


cdef uint8_t *places(Call *call, str kernel, object tensor, long n, long c, long h, long w, long window,
                     int role) except? NULL:
    """The address of what says which pixel of its window each entry of y was; None without pooling."""
    if window == 1:
        if tensor is not None:
            refuse(kernel, "place", "None for a window of 1", tensor)
        return NULL
    return <uint8_t *> operand(call, kernel, "place", tensor, NEO_BYTE, CHANNELS_LAST, 4, n, c, h, w, role)


cdef int expect(bint holds, str kernel, str name, str expected, object got) except -1:
    if not holds:
        refuse(kernel, name, expected, got)
    return 0


cdef int refuse_overlaps(Call *call, str kernel) except -1:
    """No output may share memory with another tensor of the call: kernels read while they write."""
    cdef int i, j
    for i in range(call.count):
        if call.written[i]:
            for j in range(call.count):
                if i != j and call.first[i] < call.end[j] and call.first[j] < call.end[i]:
                    raise KernelArgumentError(f"neo.kernels {kernel}: {<str> call.name[i]}, which is written, must have "
                                              f"memory of its own, got some of {<str> call.name[j]}'s")
    return 0
