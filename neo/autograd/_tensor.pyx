"""The compiled half of LiteTensor: a torch tensor, a serial number, and Python's operators.

A tensor knows nothing about graphs. Its serial number is how a tape tells tensors apart: a number that is
never given twice, so that a tape can remember a tensor without keeping it (or its memory) alive.

Operators live here because Python reaches them through C slots; each looks up the function of its name in a
table that `neo.functions` fills, so that replacing a Policy replaces the operator too.

A tensor's numbers never change, but which numbers a LiteTensor stands for can: see _aliases.pyx.
"""
cimport cython
from cpython.object cimport PyObject, PyTypeObject, Py_EQ, Py_GE, Py_GT, Py_LE, Py_LT, Py_NE
from libc.stdint cimport int64_t
from libc.string cimport strncmp


cdef extern from *:
    """
    static CYTHON_INLINE PyObject *neo_new(PyObject *type, PyObject *empty) {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, empty, NULL);
    }
    static CYTHON_INLINE void neo_hide_sequence(PyObject *type) {
        PyTypeObject *t = (PyTypeObject *)type;
        if (t->tp_as_sequence) t->tp_as_sequence->sq_item = NULL;
    }
    """
    object neo_new(object cls, tuple empty)
    void neo_hide_sequence(object cls)


cdef extern from *:
    """
    /* How many calls of torch code (converted modules, ...) this thread is in: their in-place operators write. */
    static _Thread_local int neo_torch_code = 0;
    /* Whether this thread's torch code runs under neo.functions.lifting, and whether Neo is answering one of its calls. */
    static _Thread_local int neo_lifts = 0;
    static _Thread_local int neo_answers = 0;
    """
    int neo_torch_code, neo_lifts, neo_answers


cdef extern from "Python.h":
    PyObject *PyEval_GetGlobals()
    PyObject *PyDict_GetItemString(PyObject *mapping, const char *key)
    int PyUnicode_Check(PyObject *value)
    const char *PyUnicode_AsUTF8(PyObject *value)


cdef int64_t serials = 0
cdef object lite_tensor = None      # the public class, a subclass of TensorBase; set by register_class
cdef tuple EMPTY = ()
cdef int64_t SALT = 0x4E656F4E656F
cdef dict handlers = {}             # torch callable -> function that answers it on LiteTensors; the registry's own dict
cdef object dispatch = None         # the registry's way with keyword arguments and with what is not in `handlers`
cdef dict operators = {}            # operator name -> function; "add" for tensors, "add_number" for x + 1
cdef list listeners = []            # forward levels (_forward.pyx): told of further LiteTensors for a tensor
cdef object write = None            # in_place.py's: (name of a method, arguments) -> x, changed in place


@cython.no_gc      # a LiteTensor refers to one torch tensor and to no Python container: it cannot be in a cycle
cdef class TensorBase:
    def __cinit__(self):
        global serials
        serials += 1
        self.serial = serials

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        """torch's call of `func` on LiteTensors: answered by what neo.functions has registered for it."""
        handler = None if kwargs else handlers.get(func)
        return dispatch(func, args, kwargs) if handler is None else handler(*args)

    def _bind(self, data):
        """Give a new LiteTensor its torch tensor, which never changes afterwards."""
        if self.data is not None:
            raise AttributeError("LiteTensor.data is read-only: make a new tensor, LiteTensor(data)")
        self.data = data

    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def device(self):
        return self.data.device

    @property
    def ndim(self):
        return self.data.ndim

    def __hash__(self):
        return self.serial ^ SALT       # far from small integers, which may be keys of the same dict

    def __add__(self, other):
        return binary("add", "add_number", self, other)

    def __radd__(self, other):
        return binary("add", "add_number", self, other)

    def __sub__(self, other):
        return binary("sub", "sub_number", self, other)

    def __rsub__(self, other):
        return reflected("sub", "number_sub", self, other)

    def __mul__(self, other):
        return binary("mul", "mul_number", self, other)

    def __rmul__(self, other):
        return binary("mul", "mul_number", self, other)

    def __truediv__(self, other):
        return binary("div", "div_number", self, other)

    def __rtruediv__(self, other):
        return reflected("div", "number_div", self, other)

    def __pow__(self, other, modulo):
        if modulo is not None:
            raise TypeError("pow: a LiteTensor takes no modulus, got " + repr(modulo))
        return binary("pow", "pow_number", self, other)

    def __rpow__(self, other, modulo):
        return reflected("pow", "number_pow", self, other)

    def __floordiv__(self, other):
        return operators["floor_divide"](self, other)

    def __rfloordiv__(self, other):
        return operators["floor_divide"](other, self)

    def __mod__(self, other):
        return operators["remainder"](self, other)

    def __rmod__(self, other):
        return operators["remainder"](other, self)

    def __matmul__(self, other):
        return operators["matmul"](self, other)

    def __rmatmul__(self, other):
        return operators["matmul"](other, self)

    def __and__(self, other):
        return operators["bitwise_and"](self, other)

    def __rand__(self, other):
        return operators["bitwise_and"](other, self)

    def __or__(self, other):
        return operators["bitwise_or"](self, other)

    def __ror__(self, other):
        return operators["bitwise_or"](other, self)

    def __xor__(self, other):
        return operators["bitwise_xor"](self, other)

    def __rxor__(self, other):
        return operators["bitwise_xor"](other, self)

    def __iadd__(self, other):
        return written("__iadd__", self, other) if for_torch() else binary("add", "add_number", self, other)

    def __isub__(self, other):
        return written("__isub__", self, other) if for_torch() else binary("sub", "sub_number", self, other)

    def __imul__(self, other):
        return written("__imul__", self, other) if for_torch() else binary("mul", "mul_number", self, other)

    def __itruediv__(self, other):
        return written("__itruediv__", self, other) if for_torch() else binary("div", "div_number", self, other)

    def __ipow__(self, other):
        return written("__ipow__", self, other) if for_torch() else binary("pow", "pow_number", self, other)

    def __ifloordiv__(self, other):
        return written("__ifloordiv__", self, other) if for_torch() else operators["floor_divide"](self, other)

    def __imod__(self, other):
        return written("__imod__", self, other) if for_torch() else operators["remainder"](self, other)

    def __iand__(self, other):
        return written("__iand__", self, other) if for_torch() else operators["bitwise_and"](self, other)

    def __ior__(self, other):
        return written("__ior__", self, other) if for_torch() else operators["bitwise_or"](self, other)

    def __ixor__(self, other):
        return written("__ixor__", self, other) if for_torch() else operators["bitwise_xor"](self, other)

    def __neg__(self):
        return operators["neg"](self)

    def __pos__(self):
        return self

    def __abs__(self):
        return operators["abs"](self)

    def __invert__(self):
        return operators["bitwise_not"](self)

    def __getitem__(self, index):
        return operators["getitem"](self, index)

    def __richcmp__(self, other, int kind):
        if other is None or isinstance(other, str):
            return NotImplemented
        if kind == Py_EQ:
            return operators["eq"](self, other)
        if kind == Py_NE:
            return operators["ne"](self, other)
        if kind == Py_LT:
            return operators["lt"](self, other)
        if kind == Py_LE:
            return operators["le"](self, other)
        if kind == Py_GT:
            return operators["gt"](self, other)
        return operators["ge"](self, other)

    def __reduce__(self):
        return type(self), (self.data,)


cdef bint for_torch() except -1:
    """Is the operator that is being answered to write in place, as torch's would: is the caller torch's own code, or code
    that a converted module runs? Everywhere else x += y makes a new tensor."""
    cdef PyObject *scope = PyEval_GetGlobals()
    cdef PyObject *module = NULL if scope == NULL else PyDict_GetItemString(scope, "__name__")
    cdef const char *name = NULL if module == NULL or not PyUnicode_Check(module) else PyUnicode_AsUTF8(module)
    if name == NULL:
        return neo_torch_code > 0
    if neo_torch_code > 0:
        return strncmp(name, "neo.", 4) != 0
    return strncmp(name, "torch.", 6) == 0


cdef object written(str method, TensorBase x, object other):
    return write(method, (x, other), {})


cdef inline object binary(str name, str number_name, TensorBase x, object other):
    """x (op) other, with the cheaper rule when other is a plain Python number."""
    if isinstance(other, TensorBase):
        return operators[name](x, other)
    if type(other) is float or type(other) is int:
        return operators[number_name](x, other)
    other = operators["operand"](other)         # torch.Tensor, number, or NotImplemented
    if other is NotImplemented:
        return NotImplemented
    return operators[number_name if type(other) is float or type(other) is int else name](x, other)


cdef inline object reflected(str name, str number_name, TensorBase x, object other):
    """other (op) x; number rules take the tensor first."""
    if type(other) is float or type(other) is int:
        return operators[number_name](x, other)
    other = operators["operand"](other)
    if other is NotImplemented:
        return NotImplemented
    if type(other) is float or type(other) is int:
        return operators[number_name](x, other)
    return operators[name](other, x)


cdef bint is_lite_tensor(object value):
    return type(value) is lite_tensor or isinstance(value, TensorBase)


cdef TensorBase wrap(object data):
    """A LiteTensor on `data`, which must be a detached torch.Tensor that no other LiteTensor holds."""
    cdef TensorBase tensor = <TensorBase?> neo_new(lite_tensor, EMPTY)
    tensor.data = data
    return tensor


cdef TensorBase wrap_as(object data, int64_t serial):
    """A LiteTensor of its own that tapes take for the one of this serial number; `data` must be held by no other."""
    cdef TensorBase tensor = wrap(data)
    tensor.serial = serial
    if listeners:
        tell_another(tensor)
    return tensor


cdef class IdentityListener:
    cdef int another(self, TensorBase tensor) except -1:
        return 0


cdef int listen(IdentityListener listener) except -1:
    listeners.append(listener)
    return 0


cdef int stop_listening(IdentityListener listener) except -1:
    listeners.remove(listener)
    return 0


cdef int tell_another(TensorBase tensor) except -1:
    for listener in listeners:
        (<IdentityListener> listener).another(tensor)
    return 0


cdef int64_t last_serial():
    return serials


def register_class(cls):
    """Say which subclass of TensorBase results are made of."""
    global lite_tensor
    # torch_tensor[x] asks no __torch_function__, and would take a LiteTensor for a sequence of separate indices,
    # which is another question. Without sq_item it is no sequence, and torch refuses it as an index.
    neo_hide_sequence(cls)
    lite_tensor = cls


class torch_code:
    """`with torch_code():` in this thread, in-place work on LiteTensors has torch's meaning."""

    def __enter__(self):
        global neo_torch_code
        neo_torch_code += 1

    def __exit__(self, *_):
        global neo_torch_code
        neo_torch_code -= 1


cdef bint begin_answer() noexcept:
    """Neo's own calls of torch give torch tensors, also under lifting. True where end_answer must follow."""
    global neo_answers
    if not neo_lifts or neo_answers:
        return False
    neo_answers = 1
    return True


cdef void end_answer() noexcept:
    global neo_answers
    neo_answers = 0


def lifting(bint on):
    """Begin or end a stretch of torch code whose tensors are lifted."""
    global neo_lifts
    neo_lifts += 1 if on else -1


def answering():
    return neo_answers > 0


def in_torch_code():
    return neo_torch_code > 0


def register_write(fn):
    """Say who answers in-place operators."""
    global write
    write = fn


def register_dispatch(dict table, fallback):
    """Say who answers torch functions on LiteTensors."""
    global handlers, dispatch
    handlers, dispatch = table, fallback


def register_operator(str name, fn):
    """Say which function a Python operator calls."""
    operators[name] = fn


def wrap_tensor(data):
    """A LiteTensor on `data`, a detached torch.Tensor that nothing else holds."""
    return wrap(data)
