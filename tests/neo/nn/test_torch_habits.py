"""What modules written for torch do beside arithmetic, against torch's double backward (rules 11 and 12)."""

import collections
import dataclasses
import functools
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import neo
from neo.errors import ConversionError
from tests.neo.nn.meta_gradients import assert_meta_gradients_agree, uneven


@pytest.fixture(autouse=True)
def double(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)
        self.register_buffer("scale", torch.rand(6) + 0.5)

    def forward(self, x):
        return self.second(self.middle(self.first(x)))


class ReluUsedAgain(Net):
    def middle(self, h):
        y = F.relu(h, inplace=True)
        return h + y


class Augmented(Net):
    def middle(self, h):
        k = h
        h += self.scale
        h *= 2
        return h * k.tanh()


class Residual(Net):
    def middle(self, h):
        out = h.sin()
        out += h
        return nn.ReLU(inplace=True)(out)


class Preallocated(Net):
    def middle(self, h):
        out = torch.zeros(h.shape[0], 6, dtype=h.dtype)
        out[:, :3] = h[:, 3:]
        for i in range(3, 6):
            out[:, i] = h[:, i - 3] * h[:, i]
        return out


class PreallocatedRows(Net):
    def middle(self, h):
        out = torch.empty_like(self.scale).repeat(h.shape[0], 1)
        for i, value in enumerate(h):
            out[i].copy_(value * 2)
        return out


class NewZeros(Net):
    def middle(self, h):
        out = h.new_zeros(h.shape)
        out[..., 1:].add_(h[..., :-1]).mul_(self.scale[1:])
        return out


class Masked(Net):
    def middle(self, h):
        h = h.masked_fill(h > 1, 0.5)
        h[h < -0.5] = -0.5
        h.masked_fill_(h == 0.5, 0.25)
        return h.div_(2)


class BufferIntoResult(Net):
    def middle(self, h):
        out = self.scale.clone()
        out[0] = h.sum()
        return h * out


class NoGradShift(Net):
    def middle(self, h):
        with torch.no_grad():
            shift = h.mean(0)
        return (h - shift) ** 2


class NoGradMethod(Net):
    @torch.no_grad()
    def statistics(self, h):
        return h.std(0) + 1

    def middle(self, h):
        return h / self.statistics(h)


class NoGradInPlace(Net):
    def middle(self, h):
        k = h * 2
        with torch.no_grad():
            k.clamp_(-0.5, 0.5)
        return k


class Detached(Net):
    def middle(self, h):
        d = h.detach()
        d.mul_(2)  # h's numbers too; its graph stays
        return h * d


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.round(x)

    @staticmethod
    def backward(ctx, g):
        return g


class StraightThrough(Net):
    round = Round.apply  # taken when the class was made

    def middle(self, h):
        return StraightThrough.round(h * 4) / 4


class ForwardHook(Net):
    def __init__(self):
        super().__init__()
        self.first.register_forward_hook(lambda module, args, out: out.mul_(0.5))
        self.second.register_forward_pre_hook(lambda module, args: (args[0].add_(1),))

    def middle(self, h):
        return h.sin()


class FloatOfTensor(Net):
    def middle(self, h):
        return h / float(h.abs().max())


class TorchModules(Net):
    def __init__(self):
        super().__init__()
        self.middle = nn.Sequential(
            nn.Hardtanh(inplace=True), nn.LeakyReLU(0.1, inplace=True), nn.Dropout(0.0, inplace=True)
        )


class Embedded(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.table, self.head = nn.Embedding(7, 4, **options), nn.Linear(4, 3)

    def forward(self, x):
        places = torch.tensor([[0, 3, 3], [6, 1, 0]])
        return self.head(self.table(places)) * x.sum()


class Preactivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        h = self.conv(x[:, None, None, None].expand(-1, 1, 4, 4))
        h = F.relu_(self.norm(h))
        h = h + h.mean()
        return F.relu(h, inplace=True).flatten(1)


MODULES = [
    ReluUsedAgain,
    Augmented,
    Residual,
    Preallocated,
    PreallocatedRows,
    NewZeros,
    Masked,
    BufferIntoResult,
    NoGradShift,
    NoGradMethod,
    NoGradInPlace,
    Detached,
    StraightThrough,
    ForwardHook,
    FloatOfTensor,
    TorchModules,
]


def sets(width=4):
    return (torch.randn(5, width),), (torch.randn(6, width),)


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar")
@pytest.mark.parametrize("kind", MODULES, ids=lambda kind: kind.__name__)
def test_module_has_torchs_meta_gradient(kind):
    assert_meta_gradients_agree(kind(), *sets())


@pytest.mark.parametrize("kind", [Preallocated, Masked, ReluUsedAgain], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("lite", [True, False])
def test_callers_tensors_stay_as_they_are(kind, lite):
    model, params = neo.nn.from_torch(kind())
    before = {name: value.data.clone() for name, value in params.items()}
    x = torch.randn(5, 4)
    given = neo.LiteTensor(x.clone()) if lite else x.clone()
    first = model(params, given).data
    assert torch.equal(model(params, given).data, first)
    assert torch.equal(getattr(given, "data", given), x)
    assert all(torch.equal(params[name].data, value) for name, value in before.items())


# --- outputs that no tree of tensors shows ------------------------------------------------------------------


class ModelOutput(collections.OrderedDict):
    def __getattr__(self, name):
        return self[name]


@dataclasses.dataclass
class Output:
    logits: Any
    hidden: Any = None


class Plain:
    def __init__(self, logits):
        self.logits = logits


OUTPUTS = {
    "OrderedDict": lambda y: ModelOutput(logits=y),
    "dataclass": Output,
    "object": Plain,
    "namespace": lambda y: types.SimpleNamespace(logits=y),
}


class Wrapped(ReluUsedAgain):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x, branch=True):
        if not branch:
            return self.wrap(self.second(self.first(x)))
        return self.wrap(super().forward(x))


@pytest.mark.parametrize("wrap", OUTPUTS.values(), ids=OUTPUTS.keys())
def test_in_place_work_is_right_whatever_the_output(wrap):
    assert_meta_gradients_agree(Wrapped(wrap), *sets(), loss=lambda out: uneven(out.logits))


@pytest.mark.parametrize("wrap", OUTPUTS.values(), ids=OUTPUTS.keys())
def test_in_place_work_is_right_in_the_branch_that_the_first_call_did_not_take(wrap):
    module = Wrapped(wrap)
    model, params = neo.nn.from_torch(module)
    x = torch.randn(5, 4)
    model(params, x, branch=False)
    torch.testing.assert_close(model(params, x).logits.data, module(x).logits.detach())


# --- weights ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"max_norm": 1.0}, {"sparse": True}, {"scale_grad_by_freq": True}, {"padding_idx": 3}],
    ids=lambda options: next(iter(options)),
)
def test_options_of_embeddings_have_torchs_gradient(options):
    module = Embedded(**options)
    model, params = neo.nn.from_torch(module)
    x = torch.randn(3)
    found = neo.grad(lambda params: uneven(model(params, x)), argnums=0)(params)
    uneven(module(x)).backward()
    for name, p in module.named_parameters():
        expected = p.grad.to_dense() if p.grad.is_sparse else p.grad
        torch.testing.assert_close(found[name].data, expected)


def test_parameter_changed_by_forward_is_refused_by_name():
    class Clamped(Net):
        def middle(self, h):
            with torch.no_grad():
                self.second.weight.clamp_(-0.1, 0.1)
            return h

    class ThroughData(Net):
        def middle(self, h):
            self.second.weight.data.mul_(0.5)
            return h

    for kind in (Clamped, ThroughData):
        model, params = neo.nn.from_torch(kind(), verify=False)
        with pytest.raises(ConversionError, match=r"changes the parameter 'second\.weight' in place"):
            model(params, torch.randn(5, 4))


class Counting(Net):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("running", torch.zeros(6))

    def middle(self, h):
        self.calls += 1
        with torch.no_grad():
            self.running.mul_(0.9).add_(0.1 * h.mean(0))
        return h - self.running


def test_buffers_updated_in_place_come_back_as_the_new_state():
    module = Counting()
    model, params = neo.nn.from_torch(module, buffers="updated")
    x = torch.randn(5, 4)
    state = model.state
    for _ in range(3):
        out, state = model(params, x, state=state)
        torch.testing.assert_close(out.data, module(x).detach())
    assert state["calls"].item() == 3
    torch.testing.assert_close(state["running"], module.running)


def test_buffers_written_without_a_place_to_go_are_refused_by_name():
    model, params = neo.nn.from_torch(Counting())
    with pytest.raises(ConversionError, match="writes buffer 'calls'"):
        model(params, torch.randn(5, 4))


def test_batch_norm_and_relu_in_place_inside_a_network():
    assert_meta_gradients_agree(Preactivation(), (torch.randn(5),), (torch.randn(6),))


# --- what a module keeps ------------------------------------------------------------------------------------


class Memo(Net):
    def __init__(self):
        super().__init__()
        self.cache, self.seen = {}, []

    def middle(self, h):
        if "bias" not in self.cache:
            self.cache["bias"] = self.first.bias.tanh()
        self.seen.append(h)
        return h * self.cache["bias"] * len(self.seen)


class FeatureHook(Net):
    def __init__(self):
        super().__init__()
        self.features = {}
        self.first.register_forward_hook(lambda module, args, out: self.features.__setitem__("first", out))

    def middle(self, h):
        return h + self.features["first"] ** 2


@pytest.mark.parametrize("kind", [Memo, FeatureHook], ids=lambda kind: kind.__name__)
def test_what_forward_puts_into_containers_is_dropped_after_the_call(kind):
    module = kind()
    model, params = neo.nn.from_torch(module)
    x = torch.randn(5, 4)
    first = neo.grad(lambda params: uneven(model(params, x)), argnums=0)(params)
    again = neo.grad(lambda params: uneven(model(params, x)), argnums=0)(params)
    uneven(kind.forward(module, x)).backward()
    for name, p in module.named_parameters():
        torch.testing.assert_close(first[name].data, p.grad)
        torch.testing.assert_close(again[name].data, p.grad)


def test_hook_that_closes_over_the_module_works_on_the_copy():
    module = FeatureHook()
    with torch.no_grad():
        module(torch.randn(5, 4))
    assert_meta_gradients_agree(module, *sets())


def test_memoised_function_of_parameters_is_refused_by_name():
    @functools.lru_cache
    def scaled(net):
        return net.first.bias * 3

    class Cached(Net):
        def middle(self, h):
            return h.detach() * scaled(self)

    model, params = neo.nn.from_torch(Cached())
    with pytest.raises(ConversionError, match=r"second call does not depend on 'first\.bias'"):
        model(params, torch.randn(5, 4))


def test_frozen_parameter_exchanged_or_changed_by_forward_is_refused():
    class Target(Net):
        def __init__(self, write):
            super().__init__()
            self.target = nn.Parameter(torch.zeros(6), requires_grad=False)
            self.write = write

        def middle(self, h):
            self.write(self.target, self.first.bias)
            return h * self.target

    def exchange(target, source):
        target.data = target.data * 0.5 + source.data * 0.5

    def change(target, source):
        target.data.mul_(0.5)

    for write in (exchange, change):
        model, params = neo.nn.from_torch(Target(write), verify=False)
        before = model.state["target"].clone()
        for _ in range(2):
            with pytest.raises(
                (ConversionError, AttributeError), match=r"target|LiteTensor\.data cannot be set"
            ):
                model(params, torch.randn(5, 4))
        assert torch.equal(model.state["target"], before)


def test_second_derivative_of_frequency_scaled_embeddings_is_that_of_torchs_gradient():
    ids, w = torch.tensor([0, 0, 1]), torch.ones(2, 1)

    def fn(w):
        return (F.embedding(ids, w, scale_grad_by_freq=True) ** 2).sum()

    expected = torch.autograd.functional.hessian(fn, w)
    torch.testing.assert_close(neo.hessian(fn)(neo.LiteTensor(w)).data, expected)


def test_row_that_does_not_exist_is_refused_as_in_torch():
    for place in (-1, 3):
        with pytest.raises(IndexError, match="out of range"):
            F.embedding(torch.tensor([place]), neo.LiteTensor(torch.eye(3)))
