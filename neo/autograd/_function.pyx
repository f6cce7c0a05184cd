"""Dispatch: from a call on LiteTensors to a Policy's forward on torch tensors, and onto the tapes that track an input."""
from cpython.object cimport PyObject

import torch

from neo.autograd.autocast import state as autocast_state
from neo.autograd._aliases cimport add_alias
from neo.autograd._checks cimport check_inputs, check_outputs, name_error, refuse_closed_over, refuse_complex
from neo.autograd._context cimport Context, PolicyBase, contains, rebuilt, stashed
from neo.autograd._function_mode cimport blocks, switch, undo
from neo.autograd._node cimport Node
from neo.autograd._numbers cimport Numbers
from neo.autograd._queries cimport alike, alone, autocast_on, mixed, share, version_of
from neo.autograd._signatures import bind, signature_of, with_keywords
from neo.autograd._stack cimport Stack, open_elsewhere, open_stack, refuse_other_threads
from neo.autograd._tape cimport Tape
from neo.autograd._tensor cimport TensorBase, begin_answer, end_answer, is_lite_tensor, wrap

cdef object Tensor = torch.Tensor
cdef object plain_init = object.__init__
cdef object under_autocast = None       # neo.functions.autocasting: answers a call while torch.autocast is on
cdef tuple TORCH_ERRORS = (RuntimeError, TypeError, ValueError, IndexError)


cdef extern from *:
    """
    static CYTHON_INLINE PyObject *neo_new_policy(PyObject *type, PyObject *empty) {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, empty, NULL);
    }
    """
    object neo_new_policy(object cls, tuple empty)


cdef tuple EMPTY = ()
cdef Numbers NO_NUMBERS = Numbers("", ())


cdef class Function:
    """A Policy as a function of tensors; made by `function(Policy)`.

    With a LiteTensor among the arguments: runs forward on the torch tensors behind them and gives LiteTensors,
    recorded on each open tape that tracks an input (rule 3). With plain torch.Tensors alone: gives
    torch.Tensors and records nothing. Other arguments reach forward as they are; tensors may stand in lists and
    tuples. Keyword arguments are bound to forward's signature.

    Errors: torch's own, with the Policy's name in front; TypeError for what forward cannot take or must not return.
    """
    cdef readonly object policy     # the Policy class
    cdef object forward             # its forward, as a plain function of (policy, *arguments)
    cdef object signature           # of forward, made when first needed
    cdef dict keyword_forms         # names of keyword-only arguments -> the Function that takes them as positional ones
    cdef Numbers numbers            # which parameters take numbers, where tensors are read as such
    cdef bint broadcasts            # gradients are summed back to the shapes of the inputs
    cdef readonly bint verified     # a Policy of Neo's own, whose gradients' layouts the test suite checks
    cdef bint once_differentiable   # an outer level differentiates the Policy's composition: keep the arguments
    cdef bint initialised           # the Policy has an __init__ to be called
    cdef readonly str name
    cdef public object autocast     # what torch.autocast does with its arguments, by device (neo.functions.autocasting)
    cdef object __weakref__

    def __init__(self, policy, name=None):
        if not (isinstance(policy, type) and issubclass(policy, PolicyBase)):
            raise TypeError(f"function: expected a subclass of autograd.Policy, got {policy!r}")
        self.policy = policy
        self.forward = policy.forward
        self.broadcasts = policy.broadcasts
        self.verified = policy.verified
        self.once_differentiable = policy.once_differentiable
        self.initialised = policy.__init__ is not plain_init
        self.name = name or policy.__name__
        self.numbers = NO_NUMBERS

    def read_numbers(self):
        """From now on, have tensors where forward takes numbers read as numbers, or refused (rule 14).

        For the ops of Neo's library; a Policy of the user's may take a tensor wherever it likes.
        """
        self.numbers = Numbers(self.name, self.parameters().values(), self.policy.numbers)

    @property
    def __name__(self):
        return self.name

    def __repr__(self):
        return f"<neo function {self.name} of Policy {self.policy.__module__}.{self.policy.__qualname__}>"

    def __call__(self, *args, **kwargs):
        cdef dict by_keyword
        if kwargs:
            self.parameters()
            args, by_keyword = bind(self.name, self.signature, args, kwargs)
            if by_keyword:
                return self.taking(tuple(by_keyword))(*args, *by_keyword.values())
        if not begin_answer():
            return self.apply(args)
        try:
            return self.apply(args)
        finally:
            end_answer()

    cdef Function taking(self, tuple names):
        """This function with its keyword-only arguments `names` as its last positional ones, so that tensors among them
        are inputs like any other."""
        cdef Function function
        if self.keyword_forms is None:
            self.keyword_forms = {}
        function = self.keyword_forms.get(names)
        if function is None:
            function = self.keyword_forms[names] = Function(with_keywords(self.policy, names), self.name)
        return function

    cdef object parameters(self):
        """Those of forward, after self."""
        if self.signature is None:
            self.signature = signature_of(self.forward)
        return self.signature.parameters

    def apply_as_given(self, tuple args):
        """The call as if torch.autocast left arguments alone; forward meets the state of autocast as it is."""
        return self.run(args)

    cdef object apply(self, tuple args):
        if autocast_on():
            return under_autocast(self, args)
        return self.run(args)

    cdef object run(self, tuple args):
        cdef tuple raw_args             # what forward gets: torch tensors in place of LiteTensors
        cdef tuple inputs, raw_inputs   # the tensor inputs: LiteTensors (or raw constants), and their torch tensors
        cdef tuple outputs, raw_outputs
        cdef list gathered, raw_gathered
        cdef list versions = None
        cdef bint lite, several = False
        cdef int change = 0             # of torch's function mode, which Neo's own Policies do without
        cdef Py_ssize_t i, j, n, closed = 0
        cdef Py_ssize_t first = -1      # the outermost tape that records the op; -1: none does
        cdef Stack stack
        cdef Stack around = None        # where forward is the user's: see Stack.closed
        cdef PolicyBase policy
        cdef Context ctx
        cdef unsigned long long wanted = 0
        cdef object result, argument
        cdef TensorBase output
        cdef Tape tape

        if len(args) > self.numbers.first:
            args = self.numbers.checked(args)
        raw_args = data_of(args)
        if raw_args is not None:        # the common case: LiteTensors alone
            inputs, raw_inputs, lite = args, raw_args, True
            n = len(inputs)
        else:
            gathered, raw_gathered = [], []
            raw_args = unwrap(self, args, gathered, raw_gathered)
            inputs, raw_inputs = tuple(gathered), tuple(raw_gathered)
            n = len(inputs)
            lite = False
            for i in range(n):
                if is_lite_tensor(inputs[i]):
                    lite = True
                    refuse_complex(self.name, args)
                    break

        stack = open_stack() if lite else None
        if lite and open_elsewhere(stack):
            refuse_other_threads(self.name, stack, inputs)
        if stack is not None:
            for j in range(stack.first(), len(stack.tapes)):
                tape = <Tape> stack.tapes[j]
                for i in range(n):
                    argument = inputs[i]
                    if is_lite_tensor(argument) and tape.slot_of(<TensorBase> argument) >= 0:
                        wanted |= (<unsigned long long> 1) << min(i, 63)
                        if j < stack.closed:
                            refuse_closed_over(self.name, argument)
                        if j < stack.floor:
                            stack.capture(<TensorBase> argument, j)
                        elif first < 0:
                            first = j

        policy = <PolicyBase> (self.policy() if self.initialised else neo_new_policy(self.policy, EMPTY))
        ctx = Context.__new__(Context)
        policy.ctx = ctx
        ctx.owner = self.policy
        ctx.tensors = <int> n
        ctx.wanted = wanted
        ctx.recorded = first >= 0
        if lite and not self.verified:
            versions = [version_of(raw) for raw in raw_inputs]
        if blocks:
            change = switch(not self.verified)
        if not self.verified:
            around = open_stack()
            if around is not None:
                closed, around.closed = around.closed, len(around.tapes)
        try:
            if len(raw_args) == 1:      # spelled out, the call needs no tuple
                result = self.forward(policy, raw_args[0])
            elif len(raw_args) == 2:
                result = self.forward(policy, raw_args[0], raw_args[1])
            else:
                result = self.forward(policy, *raw_args)
        except TORCH_ERRORS as error:
            name_error(self.name, error)
            raise
        finally:
            if change:
                undo(change)
            if around is not None:
                around.closed = closed
        if lite and type(result) is Tensor and self.verified:       # the common case
            output = linked(wrap(own(result, raw_inputs)), inputs, raw_inputs)
            if first < 0:
                return output
            outputs, raw_outputs = (output,), (result,)
        else:
            several = isinstance(result, (tuple, list))
            raw_outputs = tuple(result) if several else (result,)
            if not self.verified:
                check_outputs(self.name, raw_outputs)
                if versions is not None:
                    check_inputs(self.name, raw_inputs, versions)
            if not lite:
                return result if self.verified else detached(result, several, raw_outputs)
            outputs = wrap_outputs(raw_inputs, raw_outputs)
            for j in range(len(outputs)):
                if is_lite_tensor(outputs[j]):
                    linked(<TensorBase> outputs[j], inputs, raw_inputs)
        if first >= 0:
            ctx.seal(args, inputs, raw_inputs, outputs, raw_outputs)
            if self.once_differentiable:
                ctx.keep_arguments(args, raw_inputs)
            elif not self.verified and stashed(policy) is not None:
                ctx.arguments = args        # so that the walk back sees whether a higher order would miss it
            self.record(policy, stack.tapes, first, inputs, raw_inputs, outputs)
            if stack.observer is not None:
                stack.observer.recorded(self, policy, args, inputs, outputs)
        return outputs if several else outputs[0]

    cdef int record(self, PolicyBase policy, list tapes, Py_ssize_t first, tuple inputs, tuple raw_inputs,
                    tuple outputs) except -1:
        """Put a node on the tape in place `first`, and on each one further in that tracks an input."""
        cdef Node node
        cdef Tape tape
        cdef Py_ssize_t j, n = len(inputs), m = len(outputs)
        cdef list layouts = None
        cdef list output_layouts = None
        cdef object raw, output
        cdef object autocast = None if self.verified or not autocast_on() else autocast_state()
        if not self.verified or (n > 1 and (differ(raw_inputs) if self.broadcasts else mixed(raw_inputs))):
            layouts = [(raw.shape, raw.dtype, raw.device) for raw in raw_inputs]
        if m > 1:
            output_layouts = [(output.shape, output.dtype, output.device) for output in outputs]
        for j in range(first, len(tapes)):
            tape = <Tape> tapes[j]
            if j > first and not tape.tracks_any(inputs):
                continue
            node = Node.__new__(Node)
            node.layouts = layouts
            node.output_layouts = output_layouts
            node.autocast = autocast
            tape.record(node, policy, inputs, outputs, self.verified and m == 1)
        return 0


cdef tuple data_of(tuple args):
    """The torch tensors of args if all are LiteTensors, each with a torch tensor of its own; else None."""
    cdef Py_ssize_t i, j, n = len(args)
    cdef object argument, raw
    cdef tuple out
    for i in range(n):
        if not is_lite_tensor(args[i]):
            return None
    if n == 0:
        return None
    if n == 1:
        return ((<TensorBase> args[0]).data,)
    if n == 2:
        if args[0] is not args[1] and (<TensorBase> args[0]).data is (<TensorBase> args[1]).data:
            return None
        return (<TensorBase> args[0]).data, (<TensorBase> args[1]).data
    out = tuple([(<TensorBase> argument).data for argument in args])
    for i in range(1, n):
        for j in range(i):
            if out[i] is out[j] and args[i] is not args[j]:
                return None
    return out


cdef tuple unwrap(Function function, tuple args, list inputs, list raw_inputs):
    """args with torch tensors in place of LiteTensors; collects the tensor inputs, also those in lists and tuples.

    A saved tensor is known by identity, so that no two inputs may share a torch tensor unless they are one LiteTensor.
    """
    cdef Py_ssize_t i
    cdef list out = [None] * len(args)
    cdef object argument, raw
    for i in range(len(args)):
        argument = args[i]
        if is_lite_tensor(argument):
            raw = (<TensorBase> argument).data
            if contains(raw_inputs, raw) and not contains(inputs, argument):
                raw = raw.detach()
            inputs.append(argument)
            raw_inputs.append(raw)
            out[i] = raw
        elif type(argument) is float or type(argument) is int:
            out[i] = argument
        elif isinstance(argument, Tensor):
            raw = argument.detach() if argument.requires_grad or contains(raw_inputs, argument) else argument
            inputs.append(argument)
            raw_inputs.append(raw)
            out[i] = raw
        elif isinstance(argument, (tuple, list)):
            raw = unwrap(function, tuple(argument), inputs, raw_inputs)
            out[i] = raw if type(argument) is tuple else rebuilt(argument, list(raw))
        elif isinstance(argument, dict):
            for value in argument.values():
                if is_lite_tensor(value):
                    raise TypeError(f"{function.name}: argument {i} is a dict that holds a LiteTensor, which would "
                                    f"get no gradient. Pass tensors as arguments of their own, or in a list or tuple.")
            out[i] = argument
        else:
            out[i] = argument
    return tuple(out)


cdef object own(object output, tuple raw_inputs):
    """A torch tensor for a new LiteTensor: never the very object that an input holds."""
    return output.detach() if contains(raw_inputs, output) else output


cdef tuple wrap_outputs(tuple raw_inputs, tuple raw_outputs):
    """LiteTensors on what forward returned: detached, and each on a torch tensor of its own."""
    cdef Py_ssize_t i, n = len(raw_outputs)
    cdef list out
    cdef object output
    out = []
    for i in range(n):
        output = raw_outputs[i]
        if not isinstance(output, Tensor):
            out.append(output)
        elif output.requires_grad or contains(raw_inputs, output) or contains(raw_outputs[:i], output):
            out.append(wrap(output.detach()))
        else:
            out.append(wrap(output))
    return tuple(out)


cdef TensorBase linked(TensorBase output, tuple inputs, tuple raw_inputs):
    """The same tensor, known to lie on the memory of an input where it does: in-place work by torch code asks for it."""
    cdef Py_ssize_t i
    if alone(output.data):
        return output
    for i in range(len(inputs)):
        if is_lite_tensor(inputs[i]) and share(output.data, raw_inputs[i]):
            add_alias(output, <TensorBase> inputs[i])
            break
    return output


cdef bint differ(tuple tensors) except -1:
    """Do these tensors differ in shape, dtype or device, so that gradients must be summed or cast back?"""
    cdef object first = tensors[0]
    cdef Py_ssize_t i
    for i in range(1, len(tensors)):
        if tensors[i] is not first and not alike(first, tensors[i]):
            return True
    return False


cdef object detached(object result, bint several, tuple outputs):
    if several:
        return tuple([output.detach() if output.requires_grad else output for output in outputs])
    return result.detach() if result.requires_grad else result


def register_autocast(call):
    """Say who answers a Function's call while torch.autocast is on: call(function, args)."""
    global under_autocast
    under_autocast = call


def function(policy, name=None):
    """Make a function of tensors from a Policy class."""
    return Function(policy, name)
