"""What the op library gives to the layers below it, which know nothing of it.

LiteTensor, the tape and `with draws(...)` lie below the ops and cannot import them. They keep places for what answers
torch's functions, operators and in-place work, which are filled here and nowhere else. Single ops become methods and
operators of LiteTensor as they are defined, by registry.implements.
"""

from __future__ import annotations

from neo import draws
from neo.autograd import _function, _function_mode, _tensor
from neo.functions import autocasting, in_place, randomness, registry
from neo.functions._handlers import handlers

__all__ = ["install"]


def install() -> None:
    _tensor.register_dispatch(handlers, registry.dispatch)  # torch.sin(x), x.sin()
    _tensor.register_write(in_place.write_operator)  # x += y in code written for torch
    registry.define_in_place_methods()  # x.add_(y), x[i] = v
    _function.register_autocast(autocasting.call_function)  # an op under torch.autocast
    # torch's functions inside `with draws(...)`, on LiteTensors and on torch tensors
    _function_mode.register_dispatch(handlers, registry.dispatch)
    _function_mode.register_draws(randomness.answers, lambda: draws.source() is not None)
    draws.register_mode(_function_mode.enter, _function_mode.leave)
