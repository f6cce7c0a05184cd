"""Recorder: the kernel calls of one run of a step, as a torch mode sees them, and Neo's own kernels report theirs.

Every tensor gets a slot. A tensor that no recorded call made is an input, a view of something known, a tensor that was
there before the run (the step closes over it: it is held, and read anew at each replay), or made of Python's numbers
(torch.tensor, numpy: a constant). Anything else was made by work that the recorder cannot see (a kernel of somebody
else's, another thread) and is refused, as are reads of numbers, sizes that depend on them, and writes to what is not
the run's own.
"""

from __future__ import annotations

import gc
import threading
from typing import Any, NoReturn

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from neo._recording.entries import (
    NONE,
    Entry,
    Memory,
    argument_named,
    clear,
    gives_views,
    is_clear,
    is_tensor_type,
    is_written,
    layout,
    tensors,
)
from neo._recording.places import place
from neo.errors import CaptureError
from neo.kernels import direct, replay

__all__ = ["Recorder"]

_DATA_DEPENDENT = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)
_EMPTY = ("aten::empty", "aten::new_empty")
"""How the names of ops begin whose numbers are whatever was in memory."""
_MOVES_MEMORY = ("aten::resize_", "aten::resize_as_", "aten::set_")
FEW = 4096  # entries of a constant that is worth holding, at most
_COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
_MASKS = (
    torch.bool,
    torch.uint8,
)  # dtypes of indices that say which entries, so that their number depends on them
_WeakTensorRef: Any = vars(torch._C)["_WeakTensorRef"]
_DEFAULT: Any = torch.default_generator
_wrapped = torch._C._functorch.is_functorch_wrapped_tensor


class Recorder(TorchDispatchMode):
    """Records what its thread computes inside `with recorder:`.

    inputs: tensors of their own memory, in the first slots. step: its name, for errors. generator: of the
    block of draws around the call.
    """

    def __init__(self, inputs: list[torch.Tensor], step: str, generator: Any):
        super().__init__()
        self.generator = generator
        self.step, self.thread = step, threading.get_ident()
        self.entries: list[Entry] = []
        self.held: dict[int, torch.Tensor] = {}  # slot → a tensor that is there before the replay
        self.memories: dict[int, Memory] = {}  # by the address of a storage
        self.memory_of: list[int] = []  # of each slot
        self.kinds: list[tuple[Any, ...]] = []  # of each slot's tensor: layout, dtype, bits
        self.draws = self.from_block = False  # at all, and from the generator of the block around the call
        self._slots: dict[int, int] = {}  # address of a tensor's implementation → slot
        self._addresses: list[Any] = []  # weak references, which keep addresses from being given to others
        self._before = replay.Storages(gc.get_objects())  # of all tensors that Python knows
        self.inputs = len(inputs)
        for tensor in inputs:
            self._new(tensor, Memory(len(self.memory_of), tensor.dtype, False, True, whose="an argument"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # of torch's: else its compiler is imported, a second and 150 MB

    # torch's ops -----------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._can_decompose() and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSITE):
            with self:  # what it is made of may read numbers
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        name = func._schema.name
        if name == "aten::lift_fresh" and args[0].untyped_storage()._cdata not in self.memories:
            self._note_numbers(args[0])
        # by their sizes before the op, which may change them
        slots = {one._cdata: self.slot(one, name) for one in tensors((*args, *kwargs.values()))}
        out = func(*args, **kwargs)
        self._note_op(func, args, kwargs, slots, out)
        return out

    def _note_op(self, func: Any, args: Any, kwargs: Any, slots: dict[int, int], out: Any) -> None:
        schema, name = func._schema, func._schema.name
        given = [
            *zip(schema.arguments, args, strict=False),
            *((argument_named(schema, k), v) for k, v in kwargs.items()),
        ]
        read = [tensor for _, value in given for tensor in tensors(value)]
        varies = any(self._memory(slot).varies for slot in slots.values())
        if any(not is_tensor_type(returned.type) for returned in schema.returns):
            if varies:
                self.refuse(f"{name} reads numbers, which Python would decide by once and for all")
            return
        by_numbers = any(tag in func.tags for tag in _DATA_DEPENDENT)
        if (
            varies
            and by_numbers
            and not (name == "aten::index" and not any(tensor.dtype in _MASKS for tensor in read))
        ):
            self.refuse(f"the size of what {name} gives depends on numbers")
        if name in _MOVES_MEMORY:
            self.refuse(f"{name} gives a tensor other memory")
        generators: list[Any] = [value for _, value in given if isinstance(value, torch.Generator)]
        drawn_from = generators[0]._cdata if generators else None
        from_block = self.generator is not None and drawn_from == self.generator._cdata
        if generators and not from_block and drawn_from != _DEFAULT._cdata:
            self.refuse(
                f"{name} draws from a generator of its own (generator=, or a block of neo.nn.draws in the step), which "
                "does not go on from replay to replay. Draw from torch's, or have the block around the call"
            )
        if any(tensor.device.type not in ("cpu", "meta") for tensor in tensors(out)):
            self.refuse(f"{name} gives a tensor that is not on the CPU")
        written = [tensor for argument, value in given if is_written(argument) for tensor in tensors(value)]
        draws = torch.Tag.nondeterministic_seeded in func.tags
        self.draws = self.draws or draws
        self.from_block = self.from_block or from_block
        entry = Entry(
            replay.aten(name, schema.overload_name, tuple(args), kwargs, slots, from_block), name, list(slots.values()),
            [slots[tensor._cdata] for tensor in written],
            kept=draws or not schema.returns, resizes=torch.Tag.inplace_view in func.tags, view=gives_views(schema),
        )  # fmt: skip
        made = list(tensors(out, undefined=True)) if schema.returns else []
        self._note(entry, made, varies or draws, empty=name.startswith(_EMPTY))

    def _note_numbers(self, tensor: torch.Tensor) -> None:
        """A tensor made of Python's numbers: the run's own, which it may write to; a copy of what is held."""
        numbers = tensor.clone()
        slot = self._new(numbers, Memory(len(self.memory_of), tensor.dtype, False, False))
        self.held[slot] = numbers
        copy = replay.aten("aten::clone", "", (numbers,), {}, {numbers._cdata: slot}, False)
        self._note(Entry(copy, "a constant", [slot]), [tensor], varies=False)

    # Neo's own kernels --------------------------------------------------------------------------------------------

    def note_direct(self, name: str, fallback: Any, args: tuple[Any, ...], out: Any) -> None:
        """After a function of neo.kernels.direct (direct_recording.h)."""
        if name == "ones_like":  # of a slice of a batch too, which has no slot: what counts is the size
            ones, ((size, dtype),) = torch.ops.aten.ones.default, [(tuple(out.shape), out.dtype)]
            self._note_op(ones, (size,), {"dtype": dtype, "device": out.device}, {}, out)
            return
        slots = {tensor._cdata: self.slot(tensor, name) for tensor in tensors(args)}
        entry = Entry(
            replay.callable(direct.bound(name, fallback), args, {}, slots), name, list(slots.values())
        )
        varies = any(self._memory(slot).varies for slot in slots.values())
        self._note(entry, list(tensors(out)), varies, empty=name == "empty")

    def note_kernel(self, kernel: Any, given: dict[str, Any]) -> None:
        """After one of neo.kernels.library (kernels.pxi), of whatever thread."""
        if threading.get_ident() != self.thread:
            return
        name = f"neo.kernels.{kernel.name}"
        slots = {tensor._cdata: self.slot(tensor, name) for tensor in tensors(tuple(given.values()))}
        written = [
            slots[given[n]._cdata] for n in sorted(kernel.written) if n in given and given[n] is not None
        ]
        entry = Entry(replay.callable(kernel, (), given, slots), name, list(slots.values()), written)
        varies = any(self._memory(slot).varies for slot in slots.values())
        self._note(entry, [], varies)

    # slots ----------------------------------------------------------------------------------------------------------

    def slot(self, tensor: torch.Tensor, reader: str) -> int:
        """Where a tensor lies that `reader` is given; CaptureError if no recorded call can have made it."""
        found = self._slots.get(tensor._cdata)
        if (
            found is not None and layout(tensor) == self.kinds[found][0]
        ):  # C++ may set sizes behind a mode's back
            return found
        if tensor.layout is not torch.strided or _wrapped(tensor):
            self.refuse(f"{reader} is given a tensor without plain memory, {tensor.layout}")
        storage = tensor.untyped_storage()
        memory = self.memories.get(storage._cdata)
        if memory is not None and (memory.own or memory.slot < self.inputs):
            if memory.dtype is not tensor.dtype:
                self.refuse(f"{reader} is given a tensor of {tensor.dtype} on memory of {memory.dtype}")
            further = tensor.storage_offset() - self.kinds[memory.slot][0][2]
            call = replay.view(memory.slot, list(tensor.shape), list(tensor.stride()), further)
            slot = self._new(tensor, memory)
            self.entries.append(Entry(call, "a view", [memory.slot], out=[slot], view=True))
            return slot
        there = storage._cdata in self._before
        if not (there or memory is not None or not storage.resizable()):  # numpy's memory cannot be resized
            self.refuse(
                f"{reader} is given a tensor {tuple(tensor.shape)} that nothing recorded has made: it comes from "
                "another thread, or from a kernel that torch does not know. Make it before the step, or give it as an "
                "argument"
            )  # fmt: skip
        slot = len(self.memory_of)
        self.held[slot] = tensor
        whose = "a tensor that the step closes over" if there else "an array of numpy's"
        return self._new(tensor, memory or Memory(slot, tensor.dtype, False, there, whose=whose))

    def _new(self, tensor: torch.Tensor, memory: Memory | None) -> int:
        """A slot for a tensor; memory: of one that is not a recorded call's own."""
        slot, storage = len(self.memory_of), tensor.untyped_storage()
        address = storage._cdata
        if memory is not None and address not in self.memories:
            self.memories[address] = memory
            self._addresses.append(StorageWeakRef(storage))
        self.memory_of.append(address)
        self.kinds.append((layout(tensor), tensor.dtype, tensor.is_neg(), tensor.is_conj()))
        self._slots[tensor._cdata] = slot
        self._addresses.append(_WeakTensorRef(tensor))
        return slot

    def _memory(self, slot: int) -> Memory:
        return self.memories[self.memory_of[slot]]

    def _note(self, entry: Entry, out: list[Any], varies: bool, empty: bool = False) -> None:
        """empty: the numbers of what it gives are whatever was in memory."""
        for slot in entry.writes:
            memory = self._memory(slot)
            if not memory.own:
                self.refuse(f"{entry.name} writes to {memory.whose}")
            memory.blank, memory.varies = None, memory.varies or varies
        for slot in entry.reads:
            blank = self._memory(slot).blank
            if blank is not None and not is_clear(blank):  # else it is read for its layout alone
                self.refuse(f"{entry.name} reads what a kernel that torch does not know has written")
        for tensor in out:
            if tensor is None:
                entry.out.append(NONE)
                continue
            if tensor.layout is not torch.strided:
                self.refuse(f"{entry.name} gives a tensor without plain memory, {tensor.layout}")
            made = None
            if tensor.untyped_storage()._cdata not in self.memories:
                made = Memory(len(self.memory_of), tensor.dtype, True, varies)
                if empty and tensor.device.type == "cpu":
                    made.blank = tensor.untyped_storage()
                    clear(made.blank)
            entry.out.append(self._new(tensor, made))
        if entry.view and len(out) == 1 and len(entry.reads) == 1:
            (one, other) = (self.kinds[slot] for slot in (entry.reads[0], entry.out[0]))
            entry.same = one == other and self.memory_of[entry.reads[0]] == self.memory_of[entry.out[0]]
        entry.constant = not (varies or entry.kept or entry.writes) and all(
            tensor is None or tensor.numel() <= FEW for tensor in out
        )
        entry.memories = {self.memory_of[slot] for slot in entry.writes}
        self.entries.append(entry)

    def tracks(self, tensor: torch.Tensor) -> bool:
        """Does a tensor of this thread hold numbers that another replay may change?"""
        if threading.get_ident() != self.thread or tensor.layout is not torch.strided or _wrapped(tensor):
            return False
        address = tensor.untyped_storage()._cdata
        return self.memories[address].varies if address in self.memories else address in self._before

    def refuse(self, why: str) -> NoReturn:
        raise CaptureError(f"capture({self.step}): the step cannot be recorded: {why}.{place()}")
