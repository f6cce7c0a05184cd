"""Any torch.nn.Module as a pure function of its parameters."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import torch

from neo.autograd._batched import outside_vmap
from neo.autograd.tensor import LiteTensor
from neo.draws import draws, no_draws, rewinding, source
from neo.errors import ConversionError
from neo.functions import chosen_statistics
from neo.functions.in_place import NeedsLifting
from neo.functions.layouts import NotAView
from neo.functions.registry import raw
from neo.nn._torch.calls import run_as_torch_code
from neo.nn._torch.care import POLICIES, drop_nothing, leave_flat_weights, set_policy
from neo.nn._torch.copies import Blueprint, Copy
from neo.nn._torch.fusion import NotFused
from neo.nn._torch.one_op import OneOps
from neo.nn._torch.perceptrons import Whole
from neo.nn._torch.refusals import refuse_unconvertible
from neo.nn._torch.verification import compare, first_example, watched
from neo.nn._torch.weights import built, constructed, reset
from neo.nn.methods import Method, MethodAsForward
from neo.nn.module import Module
from neo.typing import Params

__all__ = ["TorchModel", "from_torch"]


class _Drew(BaseException):
    """A call without a seed has drawn on torch tensors, and was not asked: it is made again, and asked.

    No Exception, as nothing is wrong yet.
    """


State = Mapping[str, Any]
"""Buffers, and parameters that do not require grad, by the names of state_dict: torch tensors."""


def from_torch(
    module: torch.nn.Module | Callable[[], torch.nn.Module],
    *,
    buffers: str | None = None,
    init: str = "drawn",
    verify: bool = True,
    fused: bool = True,
    seed: int = 0,
) -> tuple[TorchModel, Params]:
    """A torch module as (model, params): out = model(params, x), differentiated by Neo at every order.

        model, params = neo.nn.from_torch(torch.nn.Linear(3, 2))
        neo.value_and_grad(lambda params: model(params, x).sum(), argnums=0)(params)

    params: name → LiteTensor under the names of named_parameters(), a copy of the module's weights in their dtype and
    on their device; tied ones once, under their first name. Parameters with requires_grad=False are constants and
    belong to model.state, with the buffers.

    See TorchModel for the arguments, for what a call takes and gives, for dropout, and for errors.
    """
    model = TorchModel(module, buffers=buffers, init=init, verify=verify, fused=fused, seed=seed)
    return model, model.params()


class TorchModel(Module):
    """A torch.nn.Module as a pure function, model(params, *args, **kwargs).

    The model runs private copies of the module, made now: neither a call nor an exception changes the module, and
    later changes of the module do not change the model. What forward sets on self is dropped after each call. Threads
    may call one model at the same time.

    Args:
        module: the module, with its training flags as they are to be; or a function without arguments that builds it
            (a class, a functools.partial), so that init(seed) can build it anew; it is called under `seed` here.
        buffers: which statistics batch and instance norms with running statistics normalise by.
            "batch": those of the batch at hand, always, as MAML has it; the layers keep no running statistics.
            "frozen": the running ones, as constants.
            "updated": those of the batch at hand; a call then takes the running ones, state=..., and returns
            (output, new state), whether the module is in training mode or not.
            None: "batch" for layers in training mode, "frozen" for those in evaluation mode, as torch would
            normalise; running statistics never change.
        init: what init(seed) gives. "drawn": new weights, by `module()` under the seed if it is a function, else by
            each submodule's reset_parameters; a constructor's own initialisation beyond that (torchvision's ResNet has
            one) is known only to a function. "given": the weights of the module, whatever the seed (a pretrained one).
        verify: before the first call, run torch's forward on the same numbers and compare; see Raises. Without it
            functions called with inplace=True are refused, as everywhere in Neo.
        fused: run convolution + batch norm (+ ReLU, leaky or not, + max pooling) as one op, on Neo's own kernels on a
            CPU, wherever the first call shows that the module has them one after the other; and linear layers of an
            nn.Sequential that follow each other, with ReLU, tanh or sigmoid between them. print(model) says where. It
            is compared with torch's forward like the rest, and not done where it fails, or without verify.
        seed: under which a function builds the module, and with it buffers that are drawn (spectral norm's vectors).

    A call: model(params, *args, state=None, seed=None, **kwargs); args and kwargs are forward's (state and seed are
        not), and LiteTensors among them are differentiated like params.
        state: name → tensor in place of model.state, the buffers as they were; LiteTensors are differentiated too.
            Required by buffers="updated".
        seed: an integer that whatever is drawn in forward is drawn from, see neo.nn.draws; by default that of the block
            `with neo.nn.draws(...)` around the call. One of the two is required where dropout is active (in training
            mode with p > 0); other random functions then draw from torch's default generator.

    Raises:
        ConversionError, now: the module has lazy, complex, quantised or meta parameters, backward hooks, is compiled,
            or cannot be copied. At the first call: Neo's output is not torch's (activations changed in place and
            used again), or gradients would not be (torch.autograd.Function, torch.no_grad over all uses of a
            parameter or argument, parameters reached by a closure). At any call: forward writes a buffer in place
            and buffers is not "updated".
        DrawError: dropout is active, and neither the call nor a block around it has a seed.
        NotImplementedError: an op without a Policy, named. KeyError: params lack a name, or have one too many.
    Cost: a call is forward with Neo's ops. A copy per thread, without the weights. The first call: twice more forward,
        and one backward.
    """

    def __init__(
        self,
        module: torch.nn.Module | Callable[[], torch.nn.Module],
        *,
        buffers: str | None = None,
        init: str = "drawn",
        verify: bool = True,
        fused: bool = True,
        seed: int = 0,
    ):
        if buffers is not None and buffers not in POLICIES:
            raise ValueError(
                f"from_torch: buffers must be one of {', '.join(map(repr, POLICIES))}, or None to follow the module's "
                f"training flags; got {buffers!r}"
            )
        if init not in ("drawn", "given"):
            raise ValueError(f"from_torch: init must be 'drawn' or 'given', got {init!r}")
        self.factory = None if isinstance(module, torch.nn.Module) else module
        if self.factory is not None:
            module = built(self.factory, seed) if callable(self.factory) else self.factory
        if not isinstance(module, torch.nn.Module):
            raise TypeError(
                f"from_torch: expected a torch.nn.Module, or a function without arguments that builds one; got "
                f"{type(module).__name__}"
            )
        refuse_unconvertible(module)
        self.buffers, self.initial = buffers, init
        self._blueprint = Blueprint(module)
        self._verified = not verify
        self._fused = fused and verify
        self._free: deque[Copy] = deque()
        self._ops = OneOps()
        self._whole: Whole | None = None  # where the module is one op, its call without a copy
        self._lifts = False  # whether forward writes what is differentiated into tensors that it makes
        # Whether it has drawn on torch tensors, about which a call without a seed asks then; None before the first.
        self._draws: bool | None = None
        self._lock = threading.Lock()
        first = self._new_copy()
        self._free.append(first)
        self._constants = {
            name: tensor
            for name, tensor in (*self._blueprint.frozen.items(), *self._blueprint.buffers.items())
            if name in first.places
        }
        self._moved: dict[Any, dict[str, torch.Tensor]] = {}

    # weights -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The constants of the model: buffers and parameters without requires_grad, name → torch tensor.

        Running statistics are among them where the policy has a use for them.
        """
        return dict(self._constants)

    @property
    def tied(self) -> dict[str, str]:
        """Of tensors that the module has under several names, each further name → the first, by which params has it."""
        return dict(self._blueprint.tied)

    def params(self) -> Params:
        """The module's own weights."""
        return {name: LiteTensor(weight) for name, weight in self._blueprint.parameters.items()}

    def init(
        self, seed: int = 0, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
    ) -> Params:
        """Params to start from, a pure function of seed, drawn on the CPU; see `init` above.

        dtype and device: the module's, unless given. Raises: NotImplementedError naming a submodule whose parameters
        reset_parameters does not draw; ConversionError when the function builds another module, or other buffers,
        under another seed.
        """
        given = self._blueprint.parameters
        return {
            name: LiteTensor(weight, dtype=dtype or given[name].dtype, device=device or given[name].device)
            for name, weight in self._drawn(seed).items()
        }

    def draw(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        return self._drawn(int(torch.randint(2**62, (), generator=generator, device="cpu")))

    def _drawn(self, seed: int) -> dict[str, torch.Tensor]:
        if self.initial == "given":
            return self._blueprint.parameters
        if self.factory is not None:
            return constructed(self.factory, self._blueprint, seed)
        return reset(self._blueprint, seed)

    # calls ---------------------------------------------------------------------------------------------------

    def __call__(
        self, params: Any, *args: Any, state: State | None = None, seed: int | None = None, **kwargs: Any
    ) -> Any:
        self._expect_names("params", params, self._blueprint.parameters)
        if state is None:
            if self.buffers == "updated":
                raise TypeError(
                    f'{self!r}: buffers="updated" needs the running statistics, model(params, x, state=state), and '
                    f"returns (output, new state); start from model.state"
                )
            constants = self._constants_beside(params)
        else:
            self._expect_names("state", state, self._constants)
            constants = dict(state)
        if self._whole is not None and state is None and not kwargs and len(args) == 1:
            out = self._whole(params, *args)
            if out is not NotImplemented:
                return out
        if not self._verified:
            with self._lock:
                if not self._verified:
                    with chosen_statistics.paused():
                        self._verified = self._verify(params, constants, args, kwargs)
        normalising = (
            chosen_statistics.own_in_place_of_running()
            if self.buffers in (None, "frozen")
            else contextlib.nullcontext()
        )
        draw_again, normalise_again = rewinding(), chosen_statistics.rewinding_statistics()
        try:
            with normalising:
                out, new_state = self._run(params, constants, args, kwargs, seed)
        except (NeedsLifting, NotFused, NotAView, _Drew) as error:
            # It takes another path than at the first call.
            if isinstance(error, NeedsLifting):
                self._lifts = True
            elif isinstance(error, _Drew):
                self._draws = True
            else:
                self._ops.give_up(error)
                self._free.clear()
            draw_again()
            normalise_again()
            return self(params, *args, state=state, seed=seed, **kwargs)
        return (out, new_state) if self.buffers == "updated" else out

    def _run(
        self, params: Any, constants: State, args: tuple, kwargs: dict[str, Any], seed: int | None
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """forward on a free copy: its output, and the buffers afterwards."""
        drawing = self._drawing(seed)
        try:
            copy = self._free.popleft()
        except IndexError:
            copy = self._new_copy()
        try:
            with drawing:
                out = run_as_torch_code(copy, params, self._own(constants), args, kwargs, self._lifts)
            if isinstance(drawing, no_draws) and not self._draws:
                drew = drawing.drew()
                if drew and not drawing.asks:
                    raise _Drew
                self._draws = drew
            new_state = self._state_after(copy)
        except Exception as error:
            error.add_note(f"in the forward of {self!r}")
            raise
        copy.empty()
        if copy.as_made():  # nor is one whose forward failed midway, or has left something behind, used again
            self._free.append(copy)
        return out, new_state

    def _own(self, constants: State) -> dict[str, Any]:
        """The constants of one call: buffers are written in place by some layers, so that a call has its own."""
        own: dict[str, Any] = {}
        for name, value in constants.items():
            if not isinstance(value, torch.Tensor):
                own[name] = value
            elif name in self._blueprint.buffers:
                own[name] = value.clone()
            else:  # frozen: as a LiteTensor, whose data cannot be exchanged, and whose changes are seen
                own[name] = LiteTensor(value)
        return own

    def method(self, name: str) -> Method:
        """Another method of the module than forward: model.method("encode")(params, x). Made once, then kept."""
        methods = vars(self).setdefault("_methods", {})
        if name not in methods:
            given = self._blueprint
            trained = {key: torch.nn.Parameter(value) for key, value in given.parameters.items()}
            frozen = {key: torch.nn.Parameter(value, False) for key, value in given.frozen.items()}
            module = given.build({**given.buffers, **trained, **frozen})
            if not callable(getattr(module, name, None)):
                raise AttributeError(f"{self!r}: {type(module).__name__} has no method {name!r}")
            wrapped = MethodAsForward(module, name)
            converted = TorchModel(wrapped, buffers=self.buffers, init=self.initial)
            methods[name] = Method(self, converted, name, self.buffers == "updated")
        return methods[name]

    def __repr__(self) -> str:
        return f"from_torch({self._blueprint.name})"

    def __str__(self) -> str:
        return "\n  ".join([repr(self), *(f"one op: {line}" for line in self._ops)])

    def _new_copy(self, dropout: bool = True) -> Copy:
        module = self._blueprint.build({})
        set_policy(module, self.buffers, updates=True)
        leave_flat_weights(module)
        self._ops.put_into(module)
        if not dropout:
            drop_nothing(module)
        return Copy(module, self._ops.own_layouts)

    def _verify(self, params: Any, constants: State, args: tuple, kwargs: dict[str, Any]) -> bool:
        """Raises ConversionError where Neo's call is not torch's; False when there is nothing yet to see it by."""

        def theirs(tensors: dict[str, Any]) -> torch.nn.Module:
            module = self._blueprint.build({**self._blueprint.buffers, **tensors})
            set_policy(module, self.buffers, updates=False)
            drop_nothing(module)
            return module

        def check(params: Any, constants: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            ours = self._new_copy(dropout=False)
            compare(repr(self), ours, theirs, params, constants, args, kwargs, self._lifts)

        with outside_vmap():
            given = first_example((dict(params), dict(constants), args, kwargs))
            if given is None:
                return False
            params, constants, args, kwargs = given
            try:
                check(params, constants, args, kwargs)
            except NeedsLifting:
                self._lifts = True
                check(params, constants, args, kwargs)
            if self._fused:
                self._ops.find(
                    lambda: self._new_copy(dropout=False),
                    lambda ours, watch: watched(ours, watch, params, constants, args, kwargs, self._lifts),
                    lambda: check(params, constants, args, kwargs),
                )
                self._free.clear()
                if self.buffers != "updated" and not self._constants and not self._blueprint.tied:
                    module, names = self._blueprint.build({}), self._blueprint.parameters
                    self._whole = Whole.of(module, self._ops.perceptrons, names)
        return True

    def _state_after(self, copy: Copy) -> dict[str, torch.Tensor]:
        """The state after a call; refused where it changed although the policy has it constant."""
        for name in copy.changed():
            if name in self._blueprint.parameters or name in self._blueprint.frozen:
                raise ConversionError(
                    f"{self!r}: forward changes the parameter {name!r} in place, which would be lost after the call; "
                    f"do it to the params, outside of forward"
                )
            if self.buffers != "updated":
                raise ConversionError(
                    f"{self!r}: forward writes buffer {name!r}, which would be lost after the call; with "
                    f'buffers="updated" it is returned as new state'
                )
        if self.buffers != "updated":
            return {}
        return {name: raw(copy.current(name)).detach() for name in self._constants}

    def _constants_beside(self, params: Params) -> dict[str, torch.Tensor]:
        """The model's own constants, on the device of the params, floating-point ones in their dtype."""
        name = next(iter(params), None)
        if name is None:
            return self._constants
        was, now = self._blueprint.parameters[name], params[name]
        if was.device == now.device and was.dtype == now.dtype:
            return self._constants
        key = (now.device, now.dtype)
        if key not in self._moved:
            self._moved[key] = {
                n: tensor.to(
                    device=now.device if tensor.device == was.device else None,
                    dtype=now.dtype if tensor.dtype == was.dtype else None,
                )
                for n, tensor in self._constants.items()
            }
        return self._moved[key]

    def _expect_names(self, what: str, given: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
        if given.keys() == expected.keys():
            return
        tied = self._blueprint.tied
        lacking = [name for name in expected if name not in given]
        surplus = [
            f"{name!r}" + (f" (tied to {tied[name]!r})" if name in tied else "")
            for name in given
            if name not in expected
        ]
        raise KeyError(
            f"{self!r}: {what} must have exactly the names of model.{'params()' if what == 'params' else 'state'}; "
            f"lacking {lacking}, not known {', '.join(surplus) or 'none'}"
        )

    def _drawing(self, seed: int | None) -> contextlib.AbstractContextManager[Any]:
        """Where a call draws from: its seed, else the `with neo.nn.draws(...)` around it, else nowhere."""
        if seed is not None:
            return draws(seed)
        if source() is not None:
            return contextlib.nullcontext()
        return no_draws(
            f"{self!r}: dropout is active (p > 0, training mode) and the call has no seed to draw from. Give one, "
            f"model(params, x, seed=...), another one at each step; or convert module.eval(), "
            f'with buffers="batch" where batch statistics are wanted.',
            asks=self._draws is not False,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_free": deque(), "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()
