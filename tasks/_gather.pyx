"""Chosen uint8 images as float32, in one pass over memory: _pixels.h is what is done to one, tasks/gathering.py calls it."""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport free, malloc

cdef extern from "_pixels.h" nogil:
    ctypedef struct Images:
        int64_t channels, height, width
        const float *mean
        const float *std
        bint streamed
    ctypedef void (*TakeImage)(
        const Images *, const uint8_t *, const uint8_t *, float *, const int64_t *, uint8_t *)
    TakeImage take_with(int kind)
    enum:
        KINDS

cdef TakeImage take_image = NULL
VECTORS = tuple([kind for kind in range(KINDS) if take_with(kind) != NULL])    # of this processor, the widest last


def use(int kind):
    """Compute with vectors of this kind, one of VECTORS; for tests, as the widest are used from the start."""
    global take_image
    if take_with(kind) == NULL:
        raise ValueError(f"gather: vectors of kind {kind} are not of this processor, which has {VECTORS}.")
    take_image = take_with(kind)


use(max(VECTORS))


def gather(
    const uint8_t[:, :, :, ::1] images not None,
    const int64_t[::1] rows not None,
    float[:, :, :, ::1] out not None,
    const int64_t[:, ::1] moves,
    const float[::1] mean,
    const float[::1] std,
    bint streamed,
    int threads,
):
    """out[i] = images[rows[i]], moved by moves[i] (down, right, mirrored), / 255, − mean, / std, each that is not None.

    streamed: written past the cache (_pixels.h).
    Raises: IndexError, ValueError before anything is written.
    """
    cdef int64_t n = rows.shape[0], i
    cdef Images about
    about.channels, about.height, about.width = images.shape[1], images.shape[2], images.shape[3]
    cdef int64_t plane = about.height * about.width, size = about.channels * plane
    _check(images, rows, out, moves, mean, std, threads)
    if n == 0 or size == 0:
        return

    about.mean = about.std = NULL
    about.streamed = streamed
    if mean is not None:
        about.mean = &mean[0]
    if std is not None:
        about.std = &std[0]
    cdef const uint8_t *x = &images[0, 0, 0, 0]
    cdef const int64_t *row = &rows[0]
    cdef float *y = &out[0, 0, 0, 0]
    cdef uint8_t *scratch = NULL    # a plane for each thread
    cdef int workers = <int> min(<int64_t> threads, n)
    if moves is None:
        with nogil:
            for i in prange(n, schedule="static", num_threads=workers):
                take_image(
                    &about, x + row[i] * size, x + row[min(i + 1, n - 1)] * size, y + i * size, NULL, NULL)
        return
    scratch = <uint8_t *> malloc(workers * plane)
    if scratch == NULL:
        raise MemoryError
    with nogil:
        for i in prange(n, schedule="static", num_threads=workers):
            take_image(
                &about, x + row[i] * size, x + row[min(i + 1, n - 1)] * size, y + i * size, &moves[i, 0],
                scratch + threadid() * plane)
    free(scratch)


cdef int _check(
    const uint8_t[:, :, :, ::1] images,
    const int64_t[::1] rows,
    float[:, :, :, ::1] out,
    const int64_t[:, ::1] moves,
    const float[::1] mean,
    const float[::1] std,
    int threads,
) except -1:
    """IndexError or ValueError unless every address that the loop comes to is of its array."""
    cdef int64_t n = rows.shape[0], i
    shape = (n, images.shape[1], images.shape[2], images.shape[3])
    if (out.shape[0], out.shape[1], out.shape[2], out.shape[3]) != shape:
        raise ValueError(f"gather: out must be {shape}, got {tuple(out.shape)[:4]}.")
    if moves is not None and (moves.shape[0] != n or moves.shape[1] != 3):
        raise ValueError(f"gather: moves must be ({n}, 3), got {tuple(moves.shape)[:2]}.")
    if (mean is not None and mean.shape[0] != shape[1]) or (std is not None and std.shape[0] != shape[1]):
        raise ValueError(f"gather: mean and std must have a number for each of the {shape[1]} channels.")
    if threads < 1:
        raise ValueError(f"gather: threads={threads} must be 1 or more.")
    for i in range(n):
        if not 0 <= rows[i] < images.shape[0]:
            raise IndexError(f"gather: rows[{i}]={rows[i]} is not one of the {images.shape[0]} images.")
    return 0
