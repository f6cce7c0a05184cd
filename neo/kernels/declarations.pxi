"""What C declares: a block's sizes and tensors (block.h), and the kernels (kernels.h)."""


cdef extern from "block.h" nogil:
    enum:
        NEO_INPUT, NEO_CONVOLVED, NEO_POOLED, NEO_PLACES, NEO_WEIGHTS, NEO_CHANNELS, NEO_MEANS, NEO_TAPS,
        NEO_COVARIANCE, NEO_SUMS, NEO_SUMS_BAR
        NEO_FIELD_COUNT
    ctypedef struct NeoBlock:
        long n, h, w, inputs, outputs, stride, window, down, across
        double eps, slope
        void **at               # each tensor's address, in the order of NEO_FIELD_TABLE
        void *X
        void *W
        void *workspace
        void *x_out
        void *w_out
        void *y_bar
        void *gamma_bar
        void *beta_bar
        void *z_out
        void *gamma_out
        void *z_total
        void *y_bar_dot
        void *G
        void *Z
        double *sums
    ctypedef struct NeoField:
        const char *name
        int shape
    NeoField *NEO_FIELD_TABLE


cdef extern from "kernels.h" nogil:
    enum: VECTOR_BYTES
    ctypedef int (*NeoCompute "int (*)(const NeoBlock *)")(const NeoBlock *block) noexcept
    ctypedef struct NeoKernel:
        const char *name        # NULL at the end of NEO_KERNELS
        NeoCompute *of          # for float and for double
    NeoKernel *NEO_KERNELS
    ctypedef struct NeoMatrix:
        pass
    NeoMatrix matrix_kernels "matrix"
    const char *NEO_MATRIX
    ctypedef struct NeoGroupConvolution:
        pass
    NeoGroupConvolution groups_kernels "groups"
    const char *NEO_GROUPS
    ctypedef struct NeoRows:
        pass
    NeoRows rows_kernels "rows"
    const char *NEO_ROWS
    bint is_amd()
