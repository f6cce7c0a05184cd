"""A counter-based random source: random words as a pure function of integers, with no state to save.

mix is the finaliser of splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
generators"), a bijection of 64-bit words. derive(key, value) = mix(key + GOLDEN * (value + 1)) is the
value-th word of the stream `key`, and itself the key of a stream; for one key, different values give
different words, so sorting words never meets a tie. Only integer arithmetic modulo 2**64: CPU, CUDA, every
torch version and Python itself agree bit for bit.
"""

from __future__ import annotations

import hashlib
from typing import overload

import torch

try:
    from tasks._mix import mix
except ImportError:  # as where there is no C compiler: torch's functions then
    mix = None  # type: ignore[assignment]

_transform = torch._C._functorch.peek_interpreter_stack  # the innermost torch.func transform, or None
WORD = (1 << 64) - 1  # all 64 bits
GOLDEN = 0x9E3779B97F4A7C15  # 2**64 / golden ratio, odd: the step of the counter
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # splitmix64's multipliers


@overload
def derive(key: int, value: int) -> int: ...
@overload
def derive(key: torch.Tensor | int, value: torch.Tensor) -> torch.Tensor: ...
@overload
def derive(key: torch.Tensor, value: int) -> torch.Tensor: ...
def derive(key: torch.Tensor | int, value: torch.Tensor | int) -> torch.Tensor | int:
    """The word number `value` of the stream `key`: mix(key + GOLDEN * (value + 1)).

    key, value: integers (taken modulo 2**64), or int64 tensors that broadcast; a tensor in, an int64 tensor
        out, with the same 64 bits.
    Cost: about ten elementwise kernels, no synchronisation; on the CPU two, and one in C.
    """
    if isinstance(value, torch.Tensor):
        steps = (value + 1) * _signed(GOLDEN)
        return _mix_tensor(steps + (key if isinstance(key, torch.Tensor) else _signed(key)))
    if isinstance(key, torch.Tensor):
        return _mix_tensor(key + _signed(GOLDEN * (value + 1)))
    return _mix_int(key + GOLDEN * (value + 1))


def stream(*parts: int | str) -> int:
    """A key from a path of integers and names, as stream(seed, "glyphs", "train")."""
    key = 0
    for part in parts:
        key = derive(key, part if isinstance(part, int) else _word(part))
    return key


def uniform(key: int, *shape: int) -> torch.Tensor:
    """Float32 numbers k / 2**24 in [0, 1), the first words of the stream `key`; exact on every machine."""
    count = 1
    for size in shape:
        count *= size
    return unit(derive(key, torch.arange(count, device="cpu"))).reshape(shape)


def unit(words: torch.Tensor) -> torch.Tensor:
    """int64 words → float32 k / 2**24 in [0, 1), from the upper 24 bits of each; exact on every machine."""
    return ((words >> 40) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def fraction(key: int, value: int) -> float:
    """The word number `value` of the stream `key` as k / 2**24 in [0, 1), from its upper 24 bits."""
    return (derive(key, value) >> 40) * 2.0**-24


def _word(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


def _mix_int(z: int) -> int:
    z &= WORD
    z = ((z ^ (z >> 30)) * FIRST) & WORD
    z = ((z ^ (z >> 27)) * SECOND) & WORD
    return z ^ (z >> 31)


def _mix_tensor(z: torch.Tensor) -> torch.Tensor:
    if mix is not None and z.is_cpu and type(z) is torch.Tensor and _transform() is None:
        mix(z.view(-1).numpy())
        return z
    # In place on fresh temporaries: with every class of a split hashed for every task, allocations count.
    z = _shift(z, 30).bitwise_xor_(z).mul_(_signed(FIRST))
    z = _shift(z, 27).bitwise_xor_(z).mul_(_signed(SECOND))
    return _shift(z, 31).bitwise_xor_(z)


def _shift(z: torch.Tensor, bits: int) -> torch.Tensor:
    # torch shifts int64 arithmetically; the mask clears the copies of the sign bit.
    return (z >> bits).bitwise_and_(WORD >> bits)


def _signed(word: int) -> int:
    """The 64 bits of `word` as torch's int64 holds them."""
    word &= WORD
    return word - (1 << 64) if word >> 63 else word
