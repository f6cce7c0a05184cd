/* What the tape asks of every tensor and of every call, answered by torch's C++ (_direct.cpp) where that was built; see direct.py. */
#pragma once
#include <Python.h>
#include <stdint.h>

#define NEO_LOOK "neo.kernels._direct.look 3" /* the number: of this list of functions */

typedef struct {
  int64_t (*version)(PyObject *tensor);         /* changes in place so far; -1: ask torch in Python */
  int (*alike)(PyObject *one, PyObject *other); /* 1: one shape, dtype and, if 0-dim, device; 0: not; -1: ask in Python */
  int (*grad_enabled)(void);                    /* torch.is_grad_enabled() */
  int (*share)(PyObject *one, PyObject *other); /* 1: one storage; 0: two; -1: ask in Python */
  int (*alone)(PyObject *tensor);               /* 1: no other tensor is on its storage; 0: perhaps one is */
  int (*torch_functions)(int disabled); /* this thread's TorchFunctionDisabledState from now on; gives that before */
  int (*mixed)(PyObject *tensors);              /* a tuple: floating-point ones of two dtypes? -1: ask in Python */
  int (*autocast)(void);                        /* is torch.autocast on in this thread, for any kind of device? */
} NeoLook;
