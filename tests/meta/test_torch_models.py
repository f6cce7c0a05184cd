"""Torch modules as models of a run, from configuration files alone: meta-gradients beside torch's double backward."""

from __future__ import annotations

import importlib
import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import neo
from meta import MAML, meta_gradient
from meta.cli.overrides import check, parse
from meta.cli.searchpath import override_of
from meta.experiment import Experiment
from meta.models import picked, torch_model
from neo.errors import ConversionError
from neo.nn._torch.weights import built
from tasks import Batch, Task
from tests.meta.cli.test_commands import TINY, call, start
from tests.meta.torch_nets import HEAD, NETS, Net

ALPHA = 0.1
TOLERANCE = 1e-8


def write(folder: Path, name: str, net: Net) -> None:
    (folder / "own" / "model").mkdir(parents=True)
    (folder / "own" / "model" / f"{name}.yaml").write_text(HEAD + net.model)
    if net.code:
        (folder / "nets.py").write_text(net.code)
    if net.task:
        (folder / "own" / "task").mkdir()
        (folder / "own" / "task" / f"{name}.yaml").write_text(net.task)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one, and from which modules are imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    importlib.invalidate_caches()
    yield tmp_path
    sys.modules.pop("nets", None)


def composed(*overrides: str, folders: tuple[Path, ...] = ()) -> DictConfig:
    """As scripts/train.py composes its configuration."""
    parsed = parse(overrides)
    checked = check("train", parsed, False, folders)
    with initialize_config_module("conf", version_base="1.3"):
        return compose("train", [*checked, *override_of(folders)])


def task_for(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Task:
    def batch() -> Batch:
        x = torch.randn(6, *shape, generator=generator, dtype=torch.float64)
        y = torch.arange(6) % 3
        if name == "policy":
            returns = torch.randn(6, generator=generator, dtype=torch.float64)
            return Batch(x[None], torch.stack([y.double(), returns], 1)[None])
        return Batch(x[None], y[None])

    return Task(batch(), batch())


def meta_gradient_by_torch(
    module: torch.nn.Module, params: dict[str, torch.Tensor], task: Task, model: Any, problem: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """∇ L_query(θ − α ∇ L_support(θ)) by torch's double backward; channels and output as the model has them."""

    def predict(params: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        if model.channels is not None:
            x = x.expand(-1, model.channels, -1, -1)
        return picked(torch.func.functional_call(module, params, (x,)), model.output)

    theta = {name: value.clone().requires_grad_() for name, value in params.items()}
    loss = problem.inner_loss(predict(theta, task.support.x), task.support.y)
    gradients = torch.autograd.grad(
        loss, list(theta.values()), create_graph=True, allow_unused=True, materialize_grads=True
    )
    adapted = {n: p - ALPHA * g for (n, p), g in zip(theta.items(), gradients, strict=True)}
    value = problem.loss(predict(adapted, task.query.x), task.query.y)
    gradients = torch.autograd.grad(value, list(theta.values()), allow_unused=True, materialize_grads=True)
    return value.detach(), dict(zip(theta, gradients, strict=True))


class Hardsigmoid(torch.nn.Module):
    """relu6(x + 3) / 6, which torch can differentiate twice; its own hardsigmoid it cannot."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu6(x + 3) / 6


def differentiable_twice(module: torch.nn.Module) -> torch.nn.Module:
    """The module for torch's double backward, batch norms as model.buffers=batch has them."""
    for part in list(module.modules()):
        if isinstance(part, torch.nn.modules.batchnorm._NormBase):
            part.train()
        for name, child in part.named_children():
            if isinstance(child, torch.nn.Hardsigmoid):
                setattr(part, name, Hardsigmoid())
            if getattr(child, "scale_activation", None) is torch.nn.Hardsigmoid:
                child.scale_activation = Hardsigmoid()
    return module


def weight_norm(v: torch.Tensor, g: torch.Tensor, dim: int = 0) -> torch.Tensor:
    """torch._weight_norm by its formula: the second derivative of torch's own is wrong (gradgradcheck refuses it)."""
    dims = [d for d in range(v.ndim) if d != dim]
    return v * (g / torch.linalg.vector_norm(v, 2, dims, keepdim=True))


@pytest.fixture
def right_weight_norm(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Puts that formula in the place of torch's own."""

    def replace() -> None:
        for home in (torch, sys.modules["torch.nn.utils.weight_norm"]):
            monkeypatch.setattr(home, "_weight_norm", weight_norm)

    return replace


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", NETS)
def test_meta_gradient_of_a_configured_module_is_torchs(name, here, right_weight_norm):
    net = NETS[name]
    write(here, name, net)
    overrides = [
        f"model={name}",
        "model.dtype=float64",
        f"task={name}" if net.task else "task.ways=3",
        f"algorithm.inner_lr={ALPHA}",
        "workers=1",
        "seed=3",
    ]
    experiment = Experiment(composed(*overrides, folders=(here / "own",)))
    learner = experiment.learner
    assert isinstance(learner, MAML)
    params = learner.init(seed=3)
    batch = task_for(name, net.shape, torch.Generator().manual_seed(1))
    found = meta_gradient(learner, params, batch)

    module = differentiable_twice(built(learner.model.factory, seed=3))
    raw = {name: value.data for name, value in params.items()}
    right_weight_norm()
    with sdpa_kernel(SDPBackend.MATH):
        value, expected = meta_gradient_by_torch(module, raw, batch[0], learner.model, learner.problem)
    assert list(found.gradient) == list(expected)
    torch.testing.assert_close(found.loss[0], value, rtol=TOLERANCE, atol=TOLERANCE)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-6
    for key, gradient in expected.items():
        ours = found.gradient[key].data
        assert ours.dtype == torch.float64
        torch.testing.assert_close(
            ours,
            gradient,
            rtol=TOLERANCE,
            atol=TOLERANCE * max(largest, 1.0),
            msg=lambda m, key=key: f"{key}: {m}",
        )


@pytest.mark.parametrize("wrap", [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*spectral_norm.* is deprecated:FutureWarning")
def test_power_iteration_of_a_spectral_norm_goes_on_from_step_to_step(wrap):
    """In training mode each call does one, in place and without a gradient; its vectors are carried as state."""
    torch.manual_seed(0)
    module = nn.Sequential(wrap(nn.Linear(5, 4)), nn.Tanh(), nn.Linear(4, 2)).double()
    support, query = torch.randn(2, 6, 5, dtype=torch.float64)
    model, params = neo.nn.from_torch(module, buffers="updated")

    def inner(params: Any) -> Any:
        out, state = model(params, support, state=model.state)
        return (out**2).sum(), state

    def outer(params: Any) -> Any:
        gradient, state = neo.grad(inner, argnums=0, has_aux=True)(params)
        out, state = model({n: params[n] - ALPHA * gradient[n] for n in params}, query, state=state)
        return (out**3).sum(), state

    (_, state), found = neo.value_and_grad(outer, argnums=0, has_aux=True)(params)
    theta = {n: p.detach().clone().requires_grad_() for n, p in module.named_parameters()}
    buffers = {n: buffer.clone() for n, buffer in module.named_buffers()}
    call = torch.func.functional_call
    loss = (call(module, {**theta, **buffers}, (support,)) ** 2).sum()
    gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    adapted = {n: p - ALPHA * g for (n, p), g in zip(theta.items(), gradients, strict=True)}
    loss = (call(module, {**adapted, **buffers}, (query,)) ** 3).sum()
    for (name, ours), expected in zip(
        found.items(), torch.autograd.grad(loss, list(theta.values())), strict=True
    ):
        torch.testing.assert_close(ours.data, expected, rtol=1e-9, atol=1e-12, msg=name)
    for name, buffer in buffers.items():
        torch.testing.assert_close(state[name], buffer, rtol=1e-9, atol=1e-12)


# --- through the command ---------------------------------------------------------------------------------------------

TINY_TASKS = [one for one in TINY if not one.startswith("model.")]
NET = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width, classes=3, depth=1):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(784, width), nn.ReLU(inplace=True))
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        hidden = self.body(x)
        return {"hidden": hidden, "logits": self.head(hidden)}


def make(**options):
    return Net(**options)


def broken(width):
    raise RuntimeError(f"no width of {width}")


def number():
    return 3


net = Net(2)
"""
OWN = ["model=torch", "model.module=mine.nets.Net", "model.options.width=4", "model.output=logits"]


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of a user's own in the folder that commands are called from."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").write_text("")
    (tmp_path / "mine" / "nets.py").write_text(NET)
    (tmp_path / "mine" / "wrong.py").write_text("import nowhere_to_be_found\n")
    path = sys.path[:]
    importlib.invalidate_caches()
    yield tmp_path
    sys.path[:] = path
    for name in ("mine", "mine.nets", "mine.wrong"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["huggingface", "policy", "weight_norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
def test_command_trains_from_configuration_files_alone(name, here):
    net = NETS[name]
    if not net.task:
        net = net._replace(
            code=net.code.replace("nn.Linear(8, width)", "nn.Linear(28, width)").replace("108", "2028")
        )
    write(here, name, net)
    tasks = [f"task={name}", *TINY_TASKS[4:]] if net.task else TINY_TASKS
    done = call(
        here,
        "train",
        "--config-dir",
        "own",
        f"model={name}",
        *tasks,
        "trainer.iterations=2",
        "hydra.run.dir=run",
    )
    assert done.code == 0, done.stderr
    result = json.loads((here / "run" / "result.json").read_text())
    assert result["iterations"] == 2
    assert result["metric"] == ("reward" if name == "policy" else "accuracy")


@pytest.mark.slow
def test_command_trains_a_module_of_ones_own_from_the_current_folder(mine):
    """In a process of its own: sys.path holds what the command puts there."""
    process = start(mine, "train", *OWN, *TINY_TASKS, "trainer.iterations=2", "hydra.run.dir=run")
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    process = start(mine, "evaluate", "run_dir=run", "tasks=2")
    _, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr


def test_command_trains_evaluates_and_resumes_a_module_of_ones_own(mine):
    arguments = [*OWN, "model.dtype=float64", "algorithm=anil", "algorithm.adapt=head.*"]
    done = call(mine, "train", *arguments, *TINY_TASKS, "trainer.iterations=2", "hydra.run.dir=run")
    assert done.code == 0, done.stderr
    assert "test accuracy" in done.stdout
    done = call(mine, "train", "resume=run", "trainer.iterations=3")
    assert done.code == 0, done.stderr
    done = call(mine, "evaluate", "run_dir=run", "tasks=2", "ways=2")
    assert done.code == 0, done.stderr


@pytest.mark.slow
def test_options_are_swept_over(mine):
    arguments = [*OWN[:2], "model.options.width=2,3", "+model.options.depth=1", OWN[3]]
    done = call(mine, "train", "-m", *arguments, *TINY_TASKS, "trainer.iterations=1", "hydra.sweep.dir=s")
    assert done.code == 0, done.stderr
    widths = [OmegaConf.load(mine / "s" / arm / ".hydra" / "config.yaml").model.options for arm in ("0", "1")]
    assert widths == [{"width": 2, "depth": 1}, {"width": 3, "depth": 1}]


def test_module_beside_the_folder_of_config_dir_is_imported(mine, tmp_path_factory):
    (mine / "own" / "model").mkdir(parents=True)
    (mine / "own" / "model" / "net.yaml").write_text(
        f"{HEAD}module: mine.nets.Net\noptions: {{width: 4}}\noutput: logits\n"
    )
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    arguments = ["--config-dir", str(mine / "own"), "model=net", *TINY_TASKS, "trainer.iterations=1"]
    done = call(elsewhere, "train", *arguments, "model.options.depth=2", "hydra.run.dir=run")
    assert done.code == 0, done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "model.module=None must be the import path of a torch.nn.Module class"),
        (
            ["model.module=mine.nets.Nett"],
            "model.module=mine.nets.Nett: mine.nets has no 'Nett'; did you mean Net?",
        ),
        (["model.module=mine.nests.Net"], "model.module=mine.nests.Net: mine has no 'nests'"),
        (["model.module=yours.nets.Net"], "model.module=yours.nets.Net: there is no module 'yours'"),
        (
            ["model.module=mine.wrong.Net"],
            "mine.wrong cannot be imported: No module named 'nowhere_to_be_found'",
        ),
        (["model.module=Net"], "model.module=Net must be an import path with a dot in it"),
        (["model.module=mine.nets"], "model.module=mine.nets is a module, which cannot be called"),
        (
            ["model.module=mine.nets.number"],
            "model.module=mine.nets.number gives a int; it must be a torch.nn.Module",
        ),
        (
            ["model.module=mine.nets.net"],
            "model.module=mine.nets.net is a module already built; name its class, or a function that builds it",
        ),
        (["model.module=mine.nets.Net"], "mine.nets.Net needs width; give model.options.width=..."),
        (
            [*OWN[1:], "model.options.widht=3"],
            "model.options.widht is no argument of mine.nets.Net; did you mean width? It takes width, classes, depth.",
        ),
        (["model.module=mine.nets.broken", "model.options.width=3"], "RuntimeError: no width of 3"),
        (["model.module=mine.nets.make", "model.options.size=3"], "unexpected keyword argument 'size'"),
        ([*OWN[1:], "model.options.width=wide"], "could not be built with model.options (width='wide')"),
        (
            OWN[1:3],
            "the module gives a dict with hidden, logits; say which is the prediction: model.output=hidden",
        ),
        (
            [*OWN[1:3], "model.output=logit"],
            "model.output=logit: there is no 'logit' in a dict, which has hidden, logits",
        ),
        ([*OWN[1:], "model.buffers=updated"], "model.buffers='updated' must be one of batch, frozen"),
        ([*OWN[1:], "model.dtype=float65"], "model.dtype=float65 must be a dtype of floating-point numbers"),
        ([*OWN[1:], "model.init=pretrained"], "model.init='pretrained' must be drawn or given"),
        ([*OWN[1:], "model.widht=3"], "unknown key 'model.widht'"),
        (
            ["model.module=torchvision.models.mobilenet_v3_small", "model.options.num_clases=3"],
            "model.options.num_clases is read by nothing that torchvision.models.mobilenet_v3_small calls",
        ),
    ],
)
def test_wrong_module_is_refused_in_one_sentence_naming_the_key(arguments, sentence, mine):
    done = call(mine, "train", "model=torch", *arguments, *TINY_TASKS, "trainer.iterations=1")
    assert done.code == 1
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr


# --- weights, inputs, outputs ----------------------------------------------------------------------------------------


def test_weights_are_a_pure_function_of_the_seed_nested_parts_among_them():
    """A layer that is named in options is built with the module, under its seed."""
    options = {"_args_": [{"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}]}
    model = torch_model("torch.nn.Sequential", options=options)
    torch.manual_seed(1)
    first = model.init(seed=4)
    torch.manual_seed(2)
    again, other = model.init(seed=4), model.init(seed=5)
    assert torch.equal(first["0.weight"].data, again["0.weight"].data)
    assert not torch.equal(first["0.weight"].data, other["0.weight"].data)
    expected = built(lambda: torch.nn.Linear(3, 2), 4).weight
    assert torch.equal(first["0.weight"].data, expected)


def test_weights_are_the_same_numbers_in_every_dtype():
    options = {"in_features": 3, "out_features": 2}
    single, double = (
        torch_model("torch.nn.Linear", options=options, dtype=d).init(4) for d in (None, "float64")
    )
    assert double["weight"].dtype == torch.float64
    assert torch.equal(double["weight"].data, single["weight"].data.double())


def test_given_weights_are_the_modules_own_whatever_the_seed():
    model = torch_model(
        "torch.nn.Linear", options={"in_features": 3, "out_features": 2}, init="given", seed=7
    )
    expected = built(lambda: torch.nn.Linear(3, 2), 7).weight
    for seed in (0, 1):
        assert torch.equal(model.init(seed)["weight"].data, expected)


def test_buffers_that_are_drawn_are_those_of_the_seed_that_the_weights_are_drawn_by(mine, monkeypatch):
    """Vectors of a spectral norm that belong to other weights would normalise by what is no norm of these."""
    monkeypatch.syspath_prepend(mine)
    (mine / "mine" / "nets.py").write_text(
        "from torch import nn\ndef net(): return nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4))\n"
    )
    model = torch_model("mine.nets.net", seed=3)
    params = model.init(seed=3)
    x = torch.eye(5)
    y = model(params, x).data - params["bias"].data
    assert torch.linalg.matrix_norm(y, 2) == pytest.approx(1.0, abs=1e-2)
    with pytest.raises(
        ConversionError, match=r"buffer 'parametrizations\.weight\.0\._u' is drawn too.*seed=4"
    ):
        model.init(seed=4)


def test_one_channel_is_given_as_several_and_integers_stay_as_they_are():
    options = {"in_channels": 3, "out_channels": 2, "kernel_size": 3}
    model = torch_model("torch.nn.Conv2d", options=options, channels=3, dtype="float64")
    params = model.init(0)
    one = torch.randn(4, 1, 5, 5)
    three = one.expand(-1, 3, -1, -1)
    assert torch.equal(model(params, one).data, model(params, three).data)
    assert model(params, one).dtype == torch.float64
    tokens = torch.tensor([1, 2])
    model = torch_model(
        "torch.nn.Embedding", options={"num_embeddings": 3, "embedding_dim": 2}, dtype="float64"
    )
    assert model(model.init(0), tokens).dtype == torch.float64


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Slotted:
    __slots__ = ("logits",)
    logits: Any


X = torch.arange(4.0)


@pytest.mark.parametrize(
    ("out", "output"),
    [
        (X, None),
        ({"a": X, "b": 1}, "a"),
        ({"a": {"b": X}}, "a.b"),
        ((1, X), 1),
        ((1, X), "1"),
        ([1, X], -1),
        ((1, X), "-1"),
        ((1, [{"a": X}]), "1.0.a"),
        (Pair(1, X), "right"),
        (Pair(1, X), 1),
        (OrderedDict(logits=X), "logits"),
        (SimpleNamespace(logits=X, other=None), "logits"),
        (Slotted(X), "logits"),
    ],
)
def test_output_is_picked_by_key_attribute_or_index(out, output):
    assert picked(out, output) is X


@pytest.mark.parametrize(
    ("out", "output", "sentence"),
    [
        (X, 0, r"gives one tensor, of shape \(4,\); leave model\.output out"),
        (X, "T", r"gives one tensor"),
        ((X, X), None, r"gives a tuple with 0, 1; say which is the prediction: model\.output=0"),
        ((X, X), 2, r"there is no '2' in a tuple, which has 0, 1"),
        ((X, X), "left", r"there is no 'left' in a tuple"),
        (Pair(X, X), None, r"gives a Pair with left, right; say which"),
        ({"a": X}, "keys", r"there is no 'keys' in a dict, which has a"),
        ({"a": X}, "a.T", r"there is no 'T' in a Tensor"),
        ({"a": None}, "a", r"model\.output=a is a NoneType, and the prediction must be a tensor"),
        (SimpleNamespace(logits=X), "__class__", r"there is no '__class__'"),
        (None, None, r"gives a NoneType with no outputs"),
    ],
)
def test_output_that_is_not_there_is_refused(out, output, sentence):
    with pytest.raises(ValueError, match=sentence):
        picked(out, output)
