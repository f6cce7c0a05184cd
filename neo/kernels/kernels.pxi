"""The kernels as functions of torch tensors; compiled once for each instruction set, by the files that include this.

A Kernel is called with its tensors and numbers by keyword. Each tensor is checked before its memory is touched
(buffers.pxi): KernelArgumentError names kernel and argument. Their addresses and sizes are handed to C as one struct
(block.h), which says what each of them is. What a kernel computes stands at its callers (batch_norm.py, block.py,
convolution.py, first.py, pixel_means.py), which make the outputs.
The GIL is released while a kernel runs, so that tasks on threads run side by side; not for a few microseconds, which are
shorter than another thread takes to wake up and this one to get the GIL back.
"""
cimport cython
from cpython.pycapsule cimport PyCapsule_New
from libc.math cimport isfinite
from libc.string cimport memset

include "declarations.pxi"
include "buffers.pxi"


matrix = PyCapsule_New(&matrix_kernels, NEO_MATRIX, NULL)    # for _direct.cpp
groups = PyCapsule_New(&groups_kernels, NEO_GROUPS, NULL)
rows = PyCapsule_New(&rows_kernels, NEO_ROWS, NULL)
AMD = is_amd()
BYTES = VECTOR_BYTES    # of a vector: channels must be a multiple of BYTES / itemsize


cdef extern from "Python.h" nogil:
    ctypedef struct PyThreadState:
        pass
    PyThreadState *PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState *thread)


cdef enum:
    SHORT_NS = 25000
    LARGEST_WINDOW = 15     # its places fit a byte
    FIRST_WINDOW = 2        # of a first block's kernels
    MOST_PLANES = 4         # of a first block's images

cdef object recorder = None     # (kernel, its arguments), called after each kernel, on whatever thread


def record(now):
    """Who is told of the calls of kernels from now on, or None; gives the one before."""
    global recorder
    before, recorder = recorder, now
    return before


cdef dict FIELDS = {NEO_FIELD_TABLE[i].name.decode(): i for i in range(NEO_FIELD_COUNT)}


@cython.auto_pickle(False)
cdef class Kernel:
    """One kernel as a function of torch tensors, by keyword.

    arguments: the names of its tensors, fields of a block (block.h); ">" before those that are written, "?" after those
    that may be None. The first is the image that tells the call's dtype and sizes, the second, where it is a weight or
    an output of the block, tells the number of output channels.
    numbers: which of stride, window, eps and slope it takes.
    nanoseconds: for each entry of the first image, about; a short call keeps the GIL.
    planes: images of few planes, contiguous, and weights alike (first_block.h).
    """
    cdef readonly str name
    cdef readonly tuple arguments
    cdef readonly frozenset written     # those of its arguments
    cdef int field[MOST]
    cdef int role[MOST]
    cdef bint stride, window, eps, slope, planes
    cdef long nanoseconds
    cdef const NeoKernel *kernel

    def __init__(self, str name, str arguments, str numbers="", long nanoseconds=1, bint planes=False):
        cdef int i = 0
        self.name, self.nanoseconds, self.planes = name, nanoseconds, planes
        while NEO_KERNELS[i].name != NULL and NEO_KERNELS[i].name.decode() != name:
            i += 1
        if NEO_KERNELS[i].name == NULL:
            raise SystemError(f"neo.kernels: kernels.h has no {name}")
        self.kernel = &NEO_KERNELS[i]
        self.arguments = tuple([word.strip(">?") for word in arguments.split()])
        self.written = frozenset([word.strip(">?") for word in arguments.split() if word.startswith(">")])
        for i, word in enumerate(arguments.split()):
            self.field[i] = FIELDS[word.strip(">?")]
            self.role[i] = (WRITTEN if word.startswith(">") else READ) | (OPTIONAL if word.endswith("?") else READ)
        self.stride, self.window = "stride" in numbers, "window" in numbers
        self.eps, self.slope = "eps" in numbers, "slope" in numbers

    def __repr__(self):
        return f"<neo kernel {self.name}({', '.join(self.arguments)})>"

    def __call__(self, **given):
        cdef NeoBlock block
        cdef Call call
        cdef int i, status
        cdef PyThreadState *thread = NULL
        cdef Py_ssize_t expected = len(self.arguments) + self.stride + self.window + self.eps + self.slope
        if len(given) != expected:
            self.refuse_names(given)
        memset(&block, 0, sizeof(NeoBlock))
        begin(&call)
        try:
            block.stride = given["stride"] if self.stride else 1
            block.window = given["window"] if self.window else 1
            block.eps = given["eps"] if self.eps else 0
            block.slope = given["slope"] if self.slope else 0
            expect(block.stride == 1 or block.stride == 2, self.name, "stride", "1 or 2", block.stride)
            expect(block.slope >= 0 and isfinite(block.slope), self.name, "slope", "0 or more", block.slope)
            self.read_sizes(&call, &block, given[self.arguments[0]])
            for i in range(1, len(self.arguments)):
                block.at[self.field[i]] = self.address(&call, &block, i, given[self.arguments[i]])
        except KeyError:
            self.refuse_names(given)
        if not self.planes:     # what a double backward and a tangent compute with
            expect(block.G == NULL or block.Z != NULL or block.y_bar_dot == NULL, self.name, "Z", "given where G is", None)
            expect(block.workspace != NULL or block.X == NULL or block.W == NULL, self.name, "workspace",
                   "given where X and W are", None)
            expect(block.x_out == NULL or (block.W != NULL and block.z_total != NULL), self.name, "W, z_total",
                   "given where x_out is", None)
            expect(block.w_out == NULL or (block.X != NULL and block.z_total != NULL), self.name, "X, z_total",
                   "given where w_out is", None)
            expect((block.z_out == NULL and block.gamma_out == NULL)
                   or (block.y_bar != NULL and block.gamma_bar != NULL and block.beta_bar != NULL), self.name,
                   "y_bar, gamma_bar, beta_bar", "given where z_out or gamma_out is", None)
        else:
            expect((block.w_out == NULL and block.gamma_out == NULL) or block.sums != NULL, self.name, "sums",
                   "given where w_out or gamma_out is", None)
        refuse_overlaps(&call, self.name)
        if call.n * call.channels * call.h * call.w * self.nanoseconds > SHORT_NS:
            thread = PyEval_SaveThread()
        status = self.kernel.of[call.dtype](&block)
        if thread != NULL:
            PyEval_RestoreThread(thread)
        if status:
            raise MemoryError("neo.kernels: no memory to work in")
        if recorder is not None:
            recorder(self, given)

    cdef int refuse_names(self, dict given) except -1:
        takes = (self.eps, self.slope, self.stride, self.window)
        numbers = [name for name, taken in zip(("eps", "slope", "stride", "window"), takes) if taken]
        raise TypeError(f"neo.kernels {self.name}: expected the arguments {', '.join([*self.arguments, *numbers])}, got "
                        f"{', '.join(given)}")

    cdef int read_sizes(self, Call *call, NeoBlock *block, object image) except -1:
        """Of the first image; its address, too."""
        cdef int shape = NEO_FIELD_TABLE[self.field[0]].shape
        cdef long most
        block.at[self.field[0]] = lead(call, self.name, self.arguments[0], image, not self.planes, self.role[0])
        block.n, block.outputs = call.n, ANY
        if shape == NEO_INPUT:
            block.inputs, block.h, block.w = call.channels, call.h, call.w
            block.down, block.across = (call.h - 1) // block.stride + 1, (call.w - 1) // block.stride + 1
        else:
            block.outputs, block.down, block.across = call.channels, call.h, call.w
        if self.planes and call.channels > MOST_PLANES:
            raise KernelArgumentError(
                f"neo.kernels {self.name}: x must have 1 to {MOST_PLANES} planes, got {call.channels}")
        most = min(block.down, block.across, FIRST_WINDOW if self.planes else LARGEST_WINDOW)
        expect(1 <= block.window <= most, self.name, "window", f"1 to {most}", block.window)
        return 0

    cdef void *address(self, Call *call, NeoBlock *block, int i, object tensor) except? NULL:
        """Of the argument at i, which has the shape that block.h says; NULL for None where that will do."""
        cdef str kernel = self.name, name = <str> self.arguments[i]
        cdef int shape = NEO_FIELD_TABLE[self.field[i]].shape, role = self.role[i], dtype = call.dtype
        cdef long n = block.n, inputs = block.inputs, outputs = block.outputs, taps = 9 * block.inputs
        cdef long down = block.down // block.window, across = block.across // block.window
        cdef void *found
        if shape == NEO_CHANNELS:
            return operand(call, kernel, name, tensor, dtype, PLAIN_1, 1, outputs, 0, 0, 0, role)
        if shape == NEO_CONVOLVED:
            return image(call, kernel, name, tensor, n, outputs, block.down, block.across, role)
        if shape == NEO_POOLED:
            found = image(call, kernel, name, tensor, n, outputs, down, across, role)
            block.outputs = call.last.size[1] if outputs == ANY else outputs
            return found
        if shape == NEO_PLACES:
            return places(call, kernel, tensor, n, outputs, down, across, block.window, role)
        if shape == NEO_WEIGHTS:
            found = weights(call, kernel, name, tensor, outputs, inputs, not self.planes, role)
            block.outputs = call.last.size[0] if outputs == ANY else outputs
            return found
        if shape == NEO_INPUT:
            return image(call, kernel, name, tensor, n, inputs, block.h, block.w, role)
        if shape == NEO_MEANS:
            return operand(call, kernel, name, tensor, dtype, PLAIN_2, 2, n, outputs, 0, 0, role)
        if shape == NEO_TAPS:
            return operand(call, kernel, name, tensor, NEO_DOUBLE, PLAIN_1, 1, taps, 0, 0, 0, role)
        if shape == NEO_COVARIANCE:
            return operand(call, kernel, name, tensor, NEO_DOUBLE, PLAIN_2, 2, taps, taps, 0, 0, role)
        dtype = NEO_DOUBLE if shape == NEO_SUMS else dtype
        return operand(call, kernel, name, tensor, dtype, PLAIN_2, 2, taps + 1, outputs, 0, 0, role)


# --- convolutions (winograd.h, strided.h, points.h), means over pixels -----------------------------------------------

convolution = Kernel("convolution", "x weight bias? >z", "stride", 3)
convolution_input = Kernel("convolution_input", ">x_bar weight z_bar", "stride", 3)
convolution_weight = Kernel("convolution_weight", "x >w_bar z_bar", "stride", 3)
convolution_bias = Kernel("convolution_bias", "z_bar >b_bar")
pixel_means = Kernel("pixel_means", "z >means")
spread_means = Kernel("spread_means", ">z means")

# --- batch norm, ReLU, pooling (batch_norm.h); the same with the convolution before them (entry.h) --------------------

norm = Kernel("norm", "z gamma? beta >y >place >mean >scale", "eps window slope")
norm_backward = Kernel(
    "norm_backward", "z gamma? mean scale y place y_bar >z_total >gamma_bar >beta_bar", "window slope")
norm_double_backward = Kernel(
    "norm_double_backward",
    "z gamma? mean scale y place y_bar? gamma_bar? beta_bar? Z G? B? >y_bar_out? >z_out? >gamma_out?", "window slope")
block = Kernel("block", "x weight bias? gamma? beta >z >y >place >mean >scale", "eps stride window slope", 3)
block_backward = Kernel(
    "block_backward",
    "x weight gamma? z mean scale y place y_bar z_bar? >z_total >x_bar? >w_bar? >gamma_bar >beta_bar",
    "stride window slope", 3)
block_double_backward = Kernel(
    "block_double_backward",
    "x weight gamma? z mean scale y place y_bar? z_total? gamma_bar? beta_bar? X? W? G? B? "
    ">Z >workspace? >y_bar_out? >x_out? >w_out? >gamma_out? >z_out?", "stride window slope", 3)
block_backward_tangent = Kernel(
    "block_backward_tangent",
    "x weight gamma? z mean scale y place y_bar z_total gamma_bar beta_bar y_bar_dot z_bar? X? W? G? Z? "
    ">z_out >x_bar? >w_bar? >x_out? >w_out? >gamma_out >beta_out >workspace >b_bar", "stride window slope", 3)

# --- a first block, on constant images of few planes (first_block.h) -------------------------------------------------

moments = Kernel("moments", "x >patch_mean >patch_covariance", "stride", 20, planes=True)
first = Kernel(
    "first", "x weight gamma? beta patch_mean patch_covariance >y >place", "eps stride window slope", 20, planes=True)
first_backward = Kernel(
    "first_backward",
    "x weight gamma? patch_mean patch_covariance y place y_bar >sums >w_bar >gamma_bar >beta_bar",
    "eps stride window slope", 20, planes=True)
first_double_backward = Kernel(
    "first_double_backward",
    "x weight gamma? patch_mean patch_covariance y place sums? W? G? B? >y_bar_out? >w_out? >gamma_out?",
    "eps stride window slope", 20, planes=True)
correlate = Kernel("correlate", "x y place y_bar >sums", "stride window slope", 20, planes=True)
spread = Kernel("spread", "x y place sums_bar >y_bar_out", "stride window slope", 20, planes=True)
