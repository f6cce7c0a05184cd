"""from_torch beyond right gradients (test_meta_gradients.py): names, state, draws, threads, refusals."""

from __future__ import annotations

import copy
import gc
import pickle
import re
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import neo
from meta import MAML, Workers, meta_gradient
from neo.errors import ConversionError, DrawError
from tasks import Batch, Task
from tests.neo.functions.orders import close


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64)


def convnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(27, 2)
    )


# --- params and calls ----------------------------------------------------------------------------------------


def test_params_are_the_named_parameters_of_the_module():
    module = convnet()
    _, params = neo.nn.from_torch(module)
    assert list(params) == [name for name, _ in module.named_parameters()]
    for name, p in module.named_parameters():
        assert torch.equal(params[name].data, p)
        assert params[name].dtype == p.dtype


def test_model_neither_changes_with_the_module_nor_changes_it():
    module = convnet()
    before = copy.deepcopy(module.state_dict())
    model, params = neo.nn.from_torch(module)
    x = torch.randn(4, 1, 5, 5)
    first = model(params, x).data
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert module[2].inplace
    with torch.no_grad():
        module[0].weight.zero_()
    module.eval()
    assert torch.equal(model(params, x).data, first)


def test_dtype_and_device_follow_the_module():
    model, params = neo.nn.from_torch(nn.Linear(3, 2, dtype=torch.float64))
    assert params["weight"].dtype == torch.float64
    assert model(params, normal(4, 3)).dtype == torch.float64


def test_buffers_follow_params_of_another_dtype():
    model, _ = neo.nn.from_torch(convnet().eval())
    assert model(model.init(seed=0, dtype=torch.float64), normal(2, 1, 5, 5)).dtype == torch.float64


def test_tied_parameters_are_one_and_get_the_sum_of_their_gradients():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, x):
            return self.head(torch.tanh(self.embed(x)))

    module = Tied().double()
    model, params = neo.nn.from_torch(module)
    assert list(params) == ["embed.weight"]
    x = torch.tensor([0, 3, 3])
    gradient = neo.grad(lambda params: (model(params, x) ** 2).sum(), argnums=0)(params)
    (module(x) ** 2).sum().backward()
    close(gradient["embed.weight"], module.embed.weight.grad, "tied")
    with pytest.raises(KeyError, match=r"'head\.weight' \(tied to 'embed\.weight'\)"):
        model({**params, "head.weight": params["embed.weight"]}, x)


def test_parameters_without_requires_grad_are_constants():
    module = convnet()
    module[0].requires_grad_(False)
    model, params = neo.nn.from_torch(module)
    assert list(params) == ["1.weight", "1.bias", "4.weight", "4.bias"]
    assert {"0.weight", "0.bias"} <= set(model.state)
    assert model(params, torch.randn(4, 1, 5, 5)).shape == (4, 2)


def test_missing_and_unknown_names_are_told():
    model, params = neo.nn.from_torch(nn.Linear(3, 2))
    with pytest.raises(KeyError, match=r"lacking \['bias'\], not known 'wieght'"):
        model({"weight": params["weight"], "wieght": params["bias"]}, torch.randn(1, 3))


def test_arguments_of_forward_are_differentiated_and_may_be_anything():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x, *, scale, flags):
            return {"out": self.linear(x["in"]) * scale if flags[0] else x["in"]}

    module = Scaled().double()
    model, params = neo.nn.from_torch(module)
    x, scale = neo.LiteTensor(normal(4, 3)), neo.LiteTensor(normal(4, 2))
    gradient = neo.grad(lambda x, scale: model(params, {"in": x}, scale=scale, flags=[True])["out"])(x, scale)
    close(gradient[scale], module.linear(x.data).detach(), "scale")
    close(gradient[x], scale.data @ module.linear.weight.detach(), "x")


def test_forward_keeps_nothing_from_call_to_call():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.calls = nn.Parameter(torch.ones(())), 0

        def forward(self, x):
            self.calls += 1
            self.last = x * self.weight
            return self.last * self.calls

    model, params = neo.nn.from_torch(Counting())
    assert [model(params, neo.ones(())).item() for _ in range(3)] == [1.0, 1.0, 1.0]


def test_exception_in_forward_names_the_model_and_leaves_it_usable():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, x, fail=False):
            self.weight_before = self.weight
            if fail:
                raise RuntimeError("as asked")
            return x * self.weight

    module = Fails()
    model, params = neo.nn.from_torch(module)
    model(params, neo.ones(2))
    with pytest.raises(RuntimeError, match="as asked") as caught:
        model(params, neo.ones(2), fail=True)
    assert "in the forward of from_torch(Fails)" in caught.value.__notes__
    assert neo.autograd.TapeContext.current() is None
    assert isinstance(module.weight, nn.Parameter)
    assert model(params, neo.ones(2)).tolist() == [1.0, 1.0]


def test_threads_call_one_model_at_the_same_time_with_params_of_their_own():
    meeting = threading.Barrier(4, timeout=20)

    class Slow(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward(self, x):
            if x.shape[0] > 1:
                meeting.wait()  # all are in here together
            return (x * self.weight).sum()

    model, params = neo.nn.from_torch(Slow())
    model(params, torch.ones(1))
    found = {}

    def work(k: int) -> None:
        own = {"weight": neo.LiteTensor(float(k))}
        found[k] = neo.value_and_grad(lambda p: model(p, torch.ones(3)) ** 2, argnums=0)(own)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for k, (value, gradient) in found.items():
        assert (value.item(), gradient["weight"].item()) == (9.0 * k * k, 18.0 * k)
    assert len(found) == 4


def test_model_can_be_called_within_its_own_call():
    class Recursive(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.full((), 2.0))

        def forward(self, x, again=None):
            inner = again(x) if again is not None else x
            return inner * self.weight

    model, params = neo.nn.from_torch(Recursive())
    other = {"weight": neo.LiteTensor(5.0)}
    model(params, torch.ones(()))
    assert model(params, torch.ones(()), lambda x: model(other, x)).item() == 10.0


def test_model_survives_copying_and_pickling():
    model, params = neo.nn.from_torch(convnet())
    x = torch.randn(3, 1, 5, 5)
    expected = model(params, x).data
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(again(params, x).data, expected)


def test_model_is_a_layer_of_a_sequential():
    model, _ = neo.nn.from_torch(nn.Linear(3, 4))
    both = neo.nn.Sequential([("first", model), ("act", neo.nn.Tanh()), ("second", neo.nn.Linear(4, 2))])
    params = both.init(seed=0)
    assert list(params) == ["first.weight", "first.bias", "second.weight", "second.bias"]
    assert both(params, torch.randn(5, 3)).shape == (5, 2)


def test_module_without_parameters_is_a_function():
    model, params = neo.nn.from_torch(nn.Softmax(-1))
    assert params == {}
    assert model({}, neo.zeros(4)).tolist() == [0.25] * 4


# --- buffers -------------------------------------------------------------------------------------------------


def test_batch_policy_normalises_by_the_batch_in_evaluation_too():
    module = nn.BatchNorm1d(3).double()
    x = normal(6, 3)
    expected = module.train()(x).detach()
    model, params = neo.nn.from_torch(module.eval(), buffers="batch")
    close(model(params, x), expected, "batch")
    assert model.state == {}


def test_frozen_policy_normalises_by_running_statistics_in_training_too():
    module = nn.BatchNorm1d(3).double()
    module(normal(6, 3))
    x = normal(6, 3)
    model, params = neo.nn.from_torch(module.train(), buffers="frozen")
    close(model(params, x), module.eval()(x).detach(), "frozen")


def test_without_a_policy_each_layer_does_as_its_training_flag_says():
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3), nn.BatchNorm1d(3)).double()
    module(normal(6, 3))
    module[2].eval()
    model, params = neo.nn.from_torch(module)
    x = normal(6, 3)
    close(model(params, x), module(x).detach(), "mixed")
    assert set(model.state) == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d, (5, 3)),
        (nn.BatchNorm2d, (2, 3, 4, 5)),
        (nn.BatchNorm3d, (2, 3, 2, 2, 3)),
        (partial(nn.InstanceNorm1d, track_running_stats=True), (4, 3, 5)),
        (partial(nn.InstanceNorm1d, track_running_stats=True), (3, 5)),
        (partial(nn.InstanceNorm2d, track_running_stats=True), (2, 3, 4, 5)),
    ],
)
def test_updated_policy_returns_the_running_statistics_that_torch_would_hold(layer, shape, momentum):
    module = layer(3, momentum=momentum).double().train()
    model, params = neo.nn.from_torch(copy.deepcopy(module), buffers="updated")
    state = model.state
    for _ in range(3):
        x = normal(*shape)
        expected = module(x).detach()
        given = {name: value.clone() for name, value in state.items()}
        out, new = model(params, x, state=state)
        close(out, expected, "out")
        assert all(torch.equal(given[name], state[name]) for name in state)  # nothing in place
        state = new
        for name, buffer in module.named_buffers():
            close(state[name], buffer, name)
    assert {name: value.shape for name, value in model.state.items()} == {
        n: v.shape for n, v in state.items()
    }


def test_updated_policy_asks_for_the_state():
    model, params = neo.nn.from_torch(nn.BatchNorm1d(3), buffers="updated")
    with pytest.raises(
        TypeError, match=r'buffers="updated" needs the running statistics, model\(params, x, state'
    ):
        model(params, torch.randn(4, 3))
    with pytest.raises(KeyError, match="lacking"):
        model(params, torch.randn(4, 3), state={})


def test_statistics_kept_by_one_model_serve_another():
    module = convnet().double()
    training, params = neo.nn.from_torch(module, buffers="updated")
    _, state = training(params, normal(4, 1, 5, 5), state=training.state)
    testing, _ = neo.nn.from_torch(module, buffers="frozen")
    x = normal(4, 1, 5, 5)
    expected = torch.func.functional_call(module.eval(), {n: v.clone() for n, v in state.items()}, (x,))
    close(testing(params, x, state=state), expected.detach(), "frozen, by the state of the other")


def test_frozen_policy_refuses_a_batch_norm_without_running_statistics():
    with pytest.raises(ValueError, match=r"0 \(BatchNorm1d\) keeps no running statistics"):
        neo.nn.from_torch(nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), buffers="frozen")


def test_buffer_written_in_place_is_refused_or_returned():
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))
            self.register_buffer("steps", torch.zeros(()))

        def forward(self, x):
            self.steps += 1
            return x * self.weight + self.steps

    model, params = neo.nn.from_torch(Steps())
    for _ in range(2):
        with pytest.raises(ConversionError, match="forward writes buffer 'steps'"):
            model(params, torch.zeros(()))
    model, params = neo.nn.from_torch(Steps(), buffers="updated")
    state = model.state
    for step in (1.0, 2.0):
        out, state = model(params, torch.zeros(()), state=state)
        assert (out.item(), state["steps"].item()) == (step, step)
    assert model.state["steps"].item() == 0


# --- initial weights -----------------------------------------------------------------------------------------

MODULES: dict[str, Callable[[], nn.Module]] = {
    "convnet": convnet,
    "lstm": lambda: nn.LSTM(3, 4, 2),
    "transformer": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "attention": lambda: nn.MultiheadAttention(4, 2),
    "embedding": lambda: nn.Embedding(4, 3, padding_idx=1),
}


@pytest.mark.parametrize("factory", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES)
def test_init_draws_what_the_constructor_would_under_the_seed(build, factory):
    model, params = neo.nn.from_torch(build if factory else build())
    state = torch.get_rng_state()
    drawn = model.init(seed=5)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    expected = dict(build().named_parameters())
    assert list(drawn) == list(expected) == list(params)
    assert all(torch.equal(drawn[name].data, p) for name, p in expected.items())
    moved = [name for name in drawn if not torch.equal(drawn[name].data, model.init(seed=6)[name].data)]
    assert moved


def test_init_of_given_weights_gives_them_back():
    model, params = neo.nn.from_torch(nn.Linear(3, 2), init="given")
    assert all(torch.equal(model.init(seed=3)[name].data, p.data) for name, p in params.items())


def test_init_says_what_it_cannot_draw():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.scale

    module = nn.Sequential(nn.Linear(3, 3), Scale())
    model, _ = neo.nn.from_torch(module)
    with pytest.raises(
        NotImplementedError, match=r"cannot draw '1\.scale', for Scale has no reset_parameters"
    ):
        model.init(seed=0)
    model, _ = neo.nn.from_torch(lambda: nn.Sequential(nn.Linear(3, 3), Scale()))
    assert model.init(seed=0)["1.scale"].tolist() == [1.0] * 3


def test_function_that_builds_other_modules_is_refused():
    sizes = iter((2, 3))
    model, _ = neo.nn.from_torch(lambda: nn.Linear(3, next(sizes)))
    with pytest.raises(ConversionError, match="builds another module"):
        model.init(seed=0)


# --- draws ---------------------------------------------------------------------------------------------------


class Droppy(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.drop = nn.Linear(30, 30), nn.Dropout(0.5)

    def forward(self, x):
        return self.drop(self.linear(x))


def test_dropout_is_a_pure_function_of_the_seed():
    model, params = neo.nn.from_torch(Droppy())
    x = torch.randn(4, 30)
    a, b, c = (model(params, x, seed=seed).data for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert 20 < int((a == 0).sum()) < 100


def test_dropout_without_a_seed_is_refused_and_evaluation_needs_none():
    model, params = neo.nn.from_torch(Droppy())
    x = torch.randn(4, 30)
    with pytest.raises(DrawError, match=r"dropout is active .* Give one, model\(params, x, seed=\.\.\.\)"):
        model(params, x)
    module = Droppy().eval()
    model, params = neo.nn.from_torch(module)
    torch.testing.assert_close(model(params, x).data, module(x).detach())


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5),
        lambda: nn.MultiheadAttention(8, 2, dropout=0.5),
        lambda: nn.LSTM(8, 8, 2, dropout=0.5),
    ],
)
def test_dropout_inside_torchs_own_layers_needs_a_seed_and_heeds_it(build):
    model, params = neo.nn.from_torch(build())
    x = torch.randn(4, 3, 8)
    args = (x, x, x) if isinstance(build(), nn.MultiheadAttention) else (x,)

    def first(out):
        return out[0].data if isinstance(out, tuple) else out.data

    with pytest.raises(DrawError):
        model(params, *args)
    a, b, c = (first(model(params, *args, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_draws_are_constants_at_second_order():
    model, params = neo.nn.from_torch(Droppy().double())
    x = normal(2, 30)
    neo.gradcheck(
        lambda bias: model({**params, "linear.bias": bias}, x, seed=0), (params["linear.bias"],), order=2
    )


# --- what cannot be converted --------------------------------------------------------------------------------


def with_parameter(parameter: nn.Parameter) -> nn.Module:
    module = nn.Module()
    module.weight = parameter
    return module


def hooked() -> nn.Module:
    module = nn.Linear(2, 2)
    module.register_full_backward_hook(lambda *_: None)
    return module


def parameter_hooked() -> nn.Module:
    module = nn.Linear(2, 2)
    module.weight.register_hook(lambda g: g)
    return module


def unpicklable() -> nn.Module:
    module = nn.Linear(2, 2)
    module.lock = threading.Lock()
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: nn.LazyLinear(3), "'weight' is lazy"),
        (lambda: nn.Sequential(nn.LazyBatchNorm1d()), r"'0\.weight' is lazy"),
        (lambda: with_parameter(nn.Parameter(torch.ones(2, dtype=torch.complex64))), r"'weight' is torch\.complex64"),
        (lambda: nn.Linear(2, 2, device="meta"), "'weight' is on the meta device"),
        (lambda: torch.ao.nn.quantized.Linear(2, 2), r"\(?it\)? is quantised|is quantised"),
        (lambda: torch.jit.script(nn.Linear(2, 2)), r"compiled by torch\.jit"),
        (hooked, "backward hooks"),
        (parameter_hooked, "parameter 'weight' has a hook"),
        (unpicklable, "cannot be copied"),
        (lambda: nn.Linear(2, 2).requires_grad_(False), "every parameter has requires_grad=False"),
    ],
)  # fmt: skip
def test_module_that_cannot_be_converted_is_refused_by_name(build, sentence):
    with pytest.raises(ConversionError, match=sentence):
        neo.nn.from_torch(build())


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"module": nn.Linear(2, 2), "buffers": "running"}, ValueError),
        ({"module": nn.Linear(2, 2), "init": "random"}, ValueError),
        ({"module": "resnet18"}, TypeError),
        ({"module": lambda: 3}, TypeError),
    ],
)
def test_wrong_arguments_are_refused(arguments, error):
    with pytest.raises(error, match="from_torch: "):
        neo.nn.from_torch(**arguments)


class Base(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(3) + 1), nn.Parameter(torch.rand(3))


class Closure(Base):
    def __init__(self):
        super().__init__()
        self.scale = lambda x: x * self.weight

    def forward(self, x):
        return self.scale(x) + self.bias


class InTuple(Base):
    def __init__(self):
        super().__init__()
        self.pair = (self.weight, self.bias)

    def forward(self, x):
        return x * torch.exp(self.pair[0]) + self.bias


class WritesInput(Base):
    def forward(self, x):
        return x.mul_(2) * self.weight + self.bias


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (InTuple, "'weight' through another reference"),
    ],
)
def test_forward_past_the_places_of_its_parameters_is_refused_at_the_first_call(kind, sentence):
    model, params = neo.nn.from_torch(kind())
    for _ in range(2):  # and at the next one
        with pytest.raises((ConversionError, neo.InPlaceError), match=sentence):
            model(params, neo.LiteTensor(torch.rand(2, 3)))


def test_function_in_an_attribute_that_closes_over_the_module_works_on_the_copy():
    module = Closure()
    model, params = neo.nn.from_torch(module)
    gradient = neo.grad(lambda params: model(params, torch.ones(3)), argnums=0)(params)
    assert gradient["weight"].tolist() == [1.0, 1.0, 1.0]


def test_forward_that_writes_into_a_constant_input_is_refused():
    model, params = neo.nn.from_torch(WritesInput())
    x = torch.ones(3)
    with pytest.raises(ConversionError, match=r"writes into a torch\.Tensor that it was given"):
        model(params, x)
    assert torch.equal(x, torch.ones(3))


def test_check_can_be_left_away():
    class Another(Base):
        calls = 0

        def forward(self, x):
            type(self).calls += 1
            return x * self.weight * self.calls + self.bias

    x = torch.rand(2, 3)
    model, params = neo.nn.from_torch(Another())
    with pytest.raises(ConversionError, match="gives another result at each call"):
        model(params, x)
    model, params = neo.nn.from_torch(Another(), verify=False)
    assert model(params, x).shape == (2, 3)


def test_list_of_parameters_in_an_attribute_is_filled_like_the_attributes():
    class Listed(Base):
        def __init__(self):
            super().__init__()
            self.both = [self.weight, self.bias]
            self.named = {"w": self.weight}

        def forward(self, x):
            return x * self.both[0] * self.named["w"] + self.both[1]

    model, params = neo.nn.from_torch(Listed())
    gradient = neo.grad(lambda params: model(params, torch.ones(3)), argnums=0)(params)
    torch.testing.assert_close(gradient["weight"].data, 2 * params["weight"].data)


def test_op_without_a_policy_is_named_with_the_model():
    class Odd(Base):
        def forward(self, x):
            return torch.fft.rfft(x * self.weight).abs()

    model, params = neo.nn.from_torch(Odd())
    with pytest.raises(NotImplementedError, match=r"torch\.fft\.fft_rfft|rfft.* has no Policy"):
        model(params, torch.ones(3))


# --- with the rest of Neo ------------------------------------------------------------------------------------


def test_maml_adapts_a_torch_module_and_its_meta_gradient_is_finite_differences():
    model, _ = neo.nn.from_torch(
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    )
    learner = MAML(model, inner_lr=0.1, inner_steps=2)
    params = {name: p.to(torch.float64) for name, p in learner.init(seed=0).items()}
    y = torch.tensor([0, 1, 2])
    tasks = Task(Batch(normal(2, 3, 4), y.expand(2, 3)), Batch(normal(2, 3, 4), y.expand(2, 3)))
    found = meta_gradient(learner, params, tasks)

    def mean_loss(moved: Any) -> float:
        return float(meta_gradient(learner, moved, tasks).loss.mean())

    name, eps = "0.weight", 1e-6
    for entry in (3, 11):
        step = torch.zeros(20, dtype=torch.float64)
        step[entry] = eps
        step = step.reshape(5, 4)
        up, down = (mean_loss({**params, name: neo.LiteTensor(params[name].data + s)}) for s in (step, -step))
        expected = (up - down) / (2 * eps)
        assert found.gradient[name].data.reshape(-1)[entry].item() == pytest.approx(
            expected, rel=1e-5, abs=1e-9
        )


def test_workers_give_what_one_thread_gives():
    model, _ = neo.nn.from_torch(convnet())
    x, y = torch.randn(4, 3, 1, 5, 5), torch.tensor([0, 1, 1]).expand(4, 3)
    tasks = Task(Batch(x, y), Batch(x.flip(1), y))
    learner = MAML(model, inner_lr=0.1)
    params = learner.init(seed=0)
    a, b = (meta_gradient(learner, params, tasks, workers=Workers(count)) for count in (1, 2))
    assert all(torch.equal(a.gradient[name].data, b.gradient[name].data) for name in params)


def test_params_go_free_after_a_call():
    model, params = neo.nn.from_torch(nn.LSTM(3, 2))
    model(params, torch.ones(4, 1, 3))
    own = {name: neo.LiteTensor(p.data.clone()) for name, p in params.items()}
    alive = [weakref.ref(p.data) for p in own.values()]
    gc.collect()
    gc.disable()
    try:
        model(own, torch.ones(4, 1, 3))
        del own
        assert [reference() for reference in alive] == [None] * len(alive)
    finally:
        gc.enable()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_model_goes_where_its_params_go():
    model, _ = neo.nn.from_torch(nn.Sequential(convnet(), nn.Dropout(0.5)), buffers="frozen")
    here, there = model.init(seed=0), model.init(seed=0, device="cuda")
    x = torch.randn(4, 1, 5, 5)
    out = model(there, x.cuda(), seed=1)
    assert out.device.type == "cuda"
    assert torch.equal(out.data, model(there, x.cuda(), seed=1).data)
    assert all(torch.equal(there[name].data.cpu(), here[name].data) for name in here)


# --- attributes that were computed from parameters -----------------------------------------------------------


class Doubled(nn.Module):
    """Uses a tensor that was computed from a parameter when it was made, or computes it anew."""

    def __init__(self, anew: bool, use: Callable[[Any, Any], Any]):
        super().__init__()
        self.p = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.scale = self.p * 2
        self.anew, self.use = anew, use

    def forward(self, x: Any) -> Any:
        if self.anew:
            self.scale = self.p * 2
        return self.use(x, self.scale)


@pytest.mark.parametrize(
    "use", [lambda x, s: x * s, lambda x, s: s * x, torch.mul, lambda x, s: torch.stack([x, s])]
)
@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize("wrap", [neo.LiteTensor, lambda x: x])
def test_tensor_computed_before_forward_is_no_constant(use, verify, wrap):
    """In torch a gradient flows through it; a copy of its numbers would have none."""
    x = wrap(normal(2))
    model, params = neo.nn.from_torch(Doubled(False, use), verify=verify)
    with pytest.raises(
        ConversionError, match=r"'scale' was computed from parameters when the module was made"
    ):
        model(params, x)
    model, params = neo.nn.from_torch(Doubled(True, use), verify=verify)
    gradient = neo.grad(lambda params: model(params, x).sum(), argnums=0)(params)
    assert float(gradient["p"].data.abs().sum()) > 0


class AsksForTensors(nn.Module):
    """Code of the kind that torchvision's DenseNet and many a helper have."""

    def __init__(self, otherwise: str):
        super().__init__()
        self.lin, self.otherwise = nn.Linear(3, 2), otherwise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.lin(x)
        if not torch.is_tensor(y):  # the line that is to be named
            if self.otherwise == "raise":
                raise TypeError("expected a tensor")
            return y * 2
        return y


def test_code_that_asks_for_torch_s_tensors_is_named_with_its_line() -> None:
    model, params = neo.nn.from_torch(AsksForTensors("other numbers"))
    line = r"test_from_torch\.py:\d+: if not torch\.is_tensor\(y\):  # the line"
    with pytest.raises(ConversionError, match=rf"differs from torch's own.*is_tensor_like.*{line}"):
        model(params, torch.ones(1, 3))
    model, params = neo.nn.from_torch(AsksForTensors("raise"))
    with pytest.raises(TypeError, match="expected a tensor") as raised:
        model(params, torch.ones(1, 3))
    assert re.search(line, " ".join(raised.value.__notes__))
