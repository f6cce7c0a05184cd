from libc.stdint cimport int32_t

from neo.autograd._context cimport PolicyBase


cdef class BackwardFunction(PolicyBase):
    cdef object bwd_fn              # cotangents -> gradients, on LiteTensors
    cdef readonly object jvp        # tangents -> tangents, on LiteTensors, None for zero; or None: by bwd_fn
    cdef readonly bint materialize  # bwd_fn gets zeros, not None, where no cotangent came


cdef class Node:
    cdef readonly PolicyBase policy # whose backward gives the gradients; a BackwardFunction for hand-made nodes
    cdef tuple given                # for hand-made nodes: (outputs, parents), kept alive
    cdef list tensors               # the tape's weak references by slot; shared, for inspection
    cdef int32_t *slots             # input slots, then output slots; -1: this tape does not track the input
    cdef int32_t few[6]             # where `slots` are, if they are no more than these
    cdef int inputs                 # how many of `slots` are inputs
    cdef int outputs                # how many are outputs
    cdef list layouts               # per input (shape, dtype, device) to check gradients against, or None
    cdef list output_layouts        # the same of each output, when there are several
    cdef object autocast            # torch.autocast's state when a user's rule was recorded; None: it was off

    cdef int allot(self, int inputs, int outputs) except -1
    cdef object tensor_at(self, int index)


cdef enum RuleKind:
    NO_RULE                     # also in hand-made nodes, whose rules always work on LiteTensors
    ON_TORCH_TENSORS            # no open tape tracks anything that the rule works on
    ON_LITE_TENSORS


cdef extern from *:
    """
    #ifndef NEO_RUNNING_RULE
    #define NEO_RUNNING_RULE
    typedef struct { int kind; Py_ssize_t tapes, floor; } RunningRule;
    #endif
    """
    ctypedef struct RunningRule:
        int kind                # a RuleKind
        Py_ssize_t tapes        # the stack's tapes and floor, when the rule began
        Py_ssize_t floor


cdef RunningRule running_rule() noexcept
cdef tuple call_rule(Node node, list values, bint forward)
