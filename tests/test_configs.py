"""Every configuration composes and builds, and what it does not know is refused by name."""

from __future__ import annotations

import importlib.util
import re

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf

import meta
import neo
import tasks
from meta.cli import configs, sweeps
from meta.cli.configs import CONF
from meta.cli.overrides import ConfigError, check, groups, leaves, parse
from meta.experiment import Experiment, build
from meta.trainer import Trainer
from tests.meta.runs import train

COMMANDS = ("train", "evaluate", "export", "xray", "replay", "reproduce", "mnist", "compare")
CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]


def composed(name: str, *overrides: str) -> DictConfig:
    return configs.composed(name, overrides)


def checked(name: str, *overrides: str, sweeping: bool = False) -> None:
    check(name, parse(overrides), sweeping)


@pytest.mark.parametrize("name", COMMANDS)
def test_command_composes(name):
    assert leaves(composed(name))


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_choice_composes_and_resolves(group, choice):
    if group == "sweep" and not sweeps.installed(sweeps.PLUGINS.get(choice, ("hydra", ""))[0]):
        pytest.skip(
            f"sweep={choice} needs a plugin that is not installed; tests/meta/cli/test_sweep.py says which"
        )
    config = composed("train", f"{group}={choice}")
    resolved = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert group in ("experiment", "sweep") or resolved[group]


DEEP = {  # each of few weights
    "resnet12": ["model.filters=[2,2,2,2]"],
    "wrn28_10": ["model.depth=10", "model.width=1"],
    "vit": ["model.width=6", "model.depth=1"],
}
OF_NEO = [
    choice
    for choice in groups()["model"]
    if choice not in ("lora", "resnet18", "timm", "tokens", "torch", "torchvision")
    and not choice.startswith(tuple(DEEP))
]


@pytest.mark.parametrize("choice", OF_NEO)
@pytest.mark.parametrize("algorithm", groups()["algorithm"])
def test_algorithm_builds_with_every_model(algorithm, choice):
    dense = choice in ("mlp", "mlp_batch_norm", "siren")
    small = ["model._args_=[1,4,1]"] if dense else ["model.hidden=4"]
    experiment = Experiment(composed("train", f"algorithm={algorithm}", f"model={choice}", *small))
    learner = experiment.learner
    assert isinstance(learner, meta.MetaLearner)
    params = learner.init(seed=0)
    if isinstance(learner, meta.TrainingRule):  # whose weights are drawn in each task
        params = learner.start(params, meta.Step())
    weights = params.get("params", params)
    name, shape = ("linear0.weight", (4, 1)) if dense else ("conv0.weight", (4, 1, 3, 3))
    assert weights[name].shape == shape
    assert isinstance(experiment.trainer, Trainer)


@pytest.mark.parametrize("choice", DEEP)
@pytest.mark.parametrize("algorithm", ["anil", "maml_plus_plus", "protonet"])
def test_few_shot_network_learns_with_a_head_and_as_an_embedding(algorithm, choice):
    name = f"{choice}_embedding" if algorithm == "protonet" else choice
    settings = ["task.ways=3", "task.queries=2", "evaluation.batch_norm=support", "device=cpu"]
    experiment = Experiment(
        composed("train", f"algorithm={algorithm}", f"model={name}", *settings, *DEEP[choice])
    )
    learner, start = experiment.learner, experiment.start()
    assert torch.isfinite(experiment.expect_adaptation(start, experiment.sampler("val")).losses).all()
    found = meta.meta_gradient(learner, start.params, experiment.sampler("train").sample(0, 1))
    weights = found.gradient.get("params", found.gradient)
    assert ("head.weight" in weights) == (algorithm != "protonet")
    assert all(bool(torch.isfinite(gradient.data).all()) for gradient in weights.values())
    norms = {key: weight for key, weight in start.params.get("params", {}).items() if ".norm" in f".{key}"}
    assert all(len(norm) == learner.inner.steps + 1 for norm in norms.values())


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_torch_module_builds_by_its_target_and_adapts():
    experiment = Experiment(composed("train", "model=resnet18", "task.ways=3", "task.queries=1"))
    learner = experiment.learner
    assert isinstance(learner.model, neo.nn.TorchModel)
    assert learner.model.buffers == "batch"
    params, again = learner.init(seed=4), learner.init(seed=4)
    assert params["conv1.weight"].shape == (64, 3, 7, 7)
    assert params["fc.weight"].shape == (3, 512)
    assert all(torch.equal(params[name].data, again[name].data) for name in params)
    found = meta.meta_gradient(learner, params, experiment.sampler("train").sample(0, 1))
    assert all(bool(torch.isfinite(gradient.data).all()) for gradient in found.gradient.values())
    assert float(found.gradient["conv1.weight"].data.abs().max()) > 0


@pytest.mark.parametrize("policy", ["batch", "single", "support"])
def test_policy_of_the_evaluation_does_not_change_how_a_torch_module_is_trained(policy):
    """Whose statistics normalise queries is asked of the evaluation alone."""
    config = composed(
        "train", "model=torch", "model.module=torch.nn.BatchNorm2d", f"evaluation.batch_norm={policy}"
    )
    config.model.options = {"num_features": 1}
    assert Experiment(config).learner.model.buffers == "batch"


@pytest.mark.parametrize("choice", groups()["optimizer"])
def test_optimizer_builds(choice):
    assert isinstance(build(composed("train", f"optimizer={choice}").optimizer), neo.optim.Optimizer)


def test_fomaml_is_maml_at_first_order():
    maml, first = (Experiment(composed("train", f"algorithm={name}")).learner for name in ("maml", "fomaml"))
    assert (maml.estimator, first.estimator) == (meta.Reverse(), meta.FirstOrder())
    assert maml.inner.steps == first.inner.steps


def test_glyphs_build_a_sampler_of_the_configured_protocol():
    experiment = Experiment(
        composed("train", "task.ways=3", "task.shots=2", "task.queries=4", "task.rotations=false")
    )
    assert isinstance(experiment.dataset, tasks.Glyphs)
    train, test = experiment.sampler("train"), experiment.sampler("test")
    assert (train.ways, train.shots, train.queries, train.rotations, test.rotations) == (3, 2, 4, False, True)


def test_omniglot_is_named_with_the_configured_folder_and_split():
    config = composed("train", "task=omniglot", "data_dir=elsewhere").task.dataset
    assert (config._target_, config.data_dir, config.split) == ("tasks.Omniglot", "elsewhere", "maml")
    assert config.split in tasks.SPLITS


def test_overrides_of_the_design_are_all_known():
    checked(
        "train",
        "task=omniglot",
        "task.ways=5",
        "task.shots=1",
        "task.queries=15",
        "algorithm=maml",
        "algorithm.inner_lr=0.4",
        "algorithm.inner_steps=1",
        "algorithm.first_order=false",
        "trainer.iterations=1000",
        "trainer.meta_batch=32",
        "trainer.log_every=10",
        "trainer.checkpoint_every=100",
        "device=auto",
        "seed=0",
        "logger=wandb",
        "data_dir=data",
        "hydra.run.dir=outputs/x",
    )
    checked("train", "resume=some/folder")
    checked("train", "algorithm.inner_lr=0.1,0.4", "seed=0,1,2", "algorithm=maml,fomaml", sweeping=True)
    checked("train", "seed=range(3)", sweeping=True)
    checked("evaluate", "run_dir=some/folder", "tasks=10")
    checked("xray", "run_dir=some/folder", "estimators=[es]", "es_pairs=20")


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("task.wayss=5", r"unknown key 'task\.wayss'; did you mean task\.ways\?"),
        ("inner_lr=0.1", r"unknown key 'inner_lr'.* did you mean algorithm\.inner_lr\?"),
        ("tsk=omniglot", r"unknown key 'tsk'.* did you mean task\?"),
        (
            "task.dataset.drawings=4",
            r"unknown key 'task\.dataset\.drawings'; its name is task\.dataset\.images_per_class",
        ),
        (
            "task.objective.inner_reduction=shots",
            r"unknown key 'task\.objective\.inner_reduction'; its name is task\.problem\.inner_reduction",
        ),
        ("+trainer.epochs=3", r"unknown key 'trainer\.epochs'"),
        ("protocol.ways=20", r"unknown key 'protocol\.ways'"),
        (
            "task=omniglto",
            r"invalid task 'omniglto'; did you mean omniglot\?; expected one of bandit, cifar_fs",
        ),
        ("task.ways=five", r"task\.ways=five is not an integer; expected one like task\.ways=5"),
        ("seed=1.5", r"seed=1\.5 is not an integer"),
        ("algorithm.inner_lr=high", r"algorithm\.inner_lr=high is not a number"),
        ("algorithm.first_order=1", r"algorithm\.first_order=1 is not true or false"),
        ("seed=1,2", r"seed=1,2 gives several values; add -m"),
        ("seed", r"invalid override 'seed'; write key=value"),
    ],
)
def test_unknown_override_is_refused_with_the_nearest_known(override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        checked("train", override)


def test_bad_value_among_those_of_a_sweep_is_refused():
    with pytest.raises(ConfigError, match=r"task\.ways=x is not an integer"):
        checked("train", "task.ways=5,x", sweeping=True)


def test_every_value_of_a_new_key_has_a_comment():
    """Units and ranges sit beside the value. A file that starts from another (defaults) repeats none of it."""
    bare = []
    for path in CONF.rglob("*.yaml"):
        text = path.read_text(encoding="utf-8").partition("\nhydra:")[0]
        if path.parent != CONF and "defaults:" in text:
            continue
        for line in text.splitlines():
            value = re.match(r"\s*(\w+): [^$]", line)
            if value and value[1] not in ("_target_", "project") and "#" not in line:
                bare.append(f"{path.relative_to(CONF)}: {line.strip()}")
    assert not bare


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
def test_images_may_be_a_data_set_of_torchvision():
    config = composed("train", "task=images", "task.dataset.size=8", "task.ways=2", "task.queries=2")
    config.task.dataset.data = {
        "_target_": "torchvision.datasets.FakeData", "size": 100, "image_size": [3, 9, 12], "num_classes": 8,
    }  # fmt: skip
    experiment = Experiment(config)
    assert experiment.sampler("test").sample(0, 2).query.x.shape == (2, 4, 3, 8, 8)
    assert experiment.dataset.source == "FakeData"
    assert experiment.learner.init(0)["conv0.weight"].shape == (64, 3, 3, 3)


# --- published settings ------------------------------------------------------------------------------------------

EXPERIMENTS = groups()["experiment"]
PAPERS = {
    "maml": "arXiv:1703.03400",
    "fomaml": "arXiv:1803.02999",
    "maml_plus_plus": "arXiv:1810.09502",
    "reptile": "arXiv:1803.02999",
    "imaml": "arXiv:1909.04630",
    "protonet": "arXiv:1703.05175",
    "relationnet": "arXiv:1711.06025",
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_says_paper_number_and_command(name):
    header = (CONF / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").partition("defaults:")[0]
    algorithm = re.split(r"_(?:mlp|omniglot|sinusoid|mini_imagenet|navigation)", name)[0]
    published = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").get("published", {}).get("source")
    paper = re.search(r"arXiv:[\d.]+", published or PAPERS[algorithm])
    assert paper is not None
    assert paper[0] in header
    assert re.search(r"table \d|figure \d", header)
    assert re.search(r"\d+\.\d+( ± \d+\.\d+)?", header)
    assert f"python scripts/train.py experiment={name}" in header
    if algorithm == "maml":
        assert "α = " in header
        assert "mean" in header


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_is_one_that_the_command_takes(name):
    checked("train", f"experiment={name}")


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment_builds_and_runs_briefly(name, tmp_path, monkeypatch):
    """As published, but for how much of everything; the place of data is taken by images that need no files."""
    small = [
        "trainer.iterations=2",
        "trainer.meta_batch=2",
        "trainer.val_tasks=2",
        "evaluation.tasks=3",
        "device=cpu",
    ]
    if "navigation" in name:
        small += ["task.dataset.horizon=5"]
    if "omniglot" in name:
        small += ["model._args_=[784,4,5]" if "mlp" in name else "model.hidden=4"]
        glyphs = tasks.Glyphs(alphabets=5, characters=24)
        monkeypatch.setattr(Experiment, "dataset", glyphs)
    elif "mini_imagenet" in name:
        small += ["model.hidden=4", "task.dataset.size=16"]
        noise = np.random.default_rng(0).integers(0, 256, (42 * 20, 16, 16, 3), dtype=np.uint8)
        listed = [(image, f"class{i // 20}") for i, image in enumerate(noise)]
        monkeypatch.setattr(Experiment, "dataset", tasks.Images(listed, fractions=(0.72, 0.14, 0.14)))
    config = composed("train", f"experiment={name}", *small)
    result = train(config, tmp_path)
    assert result["iterations"] == 2
    assert result["protocol"].get("inner_lr") == config.algorithm.get("inner_lr")
    assert (tmp_path / "plots" / "tasks.png").is_file()


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("maml_omniglot_5w1s", (5, 1, 1, 0.4, 1, 3, 32)),
        ("maml_omniglot_5w5s", (5, 5, 5, 0.4, 1, 3, 32)),
        ("maml_omniglot_20w1s", (20, 1, 1, 0.1, 5, 5, 16)),
        ("maml_omniglot_20w5s", (20, 5, 5, 0.1, 5, 5, 16)),
    ],
)
def test_omniglot_experiments_are_the_papers(name, protocol, monkeypatch):
    """Appendix A.1 of arXiv:1703.03400; its inner rate is of a sum over the support set divided by the shots."""
    monkeypatch.setattr(Experiment, "dataset", tasks.Glyphs(alphabets=3, characters=2))
    experiment = Experiment(composed("train", f"experiment={name}"))
    assert experiment.config.task.dataset._target_ == "tasks.Omniglot"
    got = experiment.protocol()
    keys = ("ways", "shots", "queries", "inner_lr", "inner_steps", "test_inner_steps", "meta_batch")
    assert tuple(got[key] for key in keys) == protocol
    assert (got["inner_reduction"], got["test_tasks"], got["iterations"]) == ("shots", 600, 60_000)
    assert not any(name.startswith("norm") and name.endswith("weight") for name in experiment.learner.init(0))


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("maml_mini_imagenet_5w1s", (5, 1, 15, 1, 0.01, 5, 10, 4)),
        ("maml_mini_imagenet_5w5s", (5, 5, 15, 5, 0.01, 5, 10, 2)),
    ],
)
def test_mini_imagenet_experiments_are_the_papers(name, protocol):
    """Appendix A.1 of arXiv:1703.03400; images of three channels and 84 pixels reach the model."""
    config = composed("train", f"experiment={name}")
    task, algorithm = config.task, config.algorithm
    assert (
        task.ways, task.shots, task.queries, task.test_queries, algorithm.inner_lr, algorithm.inner_steps,
        config.evaluation.inner_steps, config.trainer.meta_batch,
    ) == protocol  # fmt: skip
    params = build(config.model).init(0)
    assert params["conv0.weight"].shape == (32, 3, 3, 3)
    assert params["head.weight"].shape == (5, 32 * 5 * 5)  # the paper's code has 5x5 positions too


def test_experiment_gives_way_to_what_is_typed_after_it():
    config = composed("train", "experiment=maml_omniglot_5w1s", "algorithm=fomaml", "task.ways=7")
    assert (config.algorithm.first_order, config.algorithm.inner_lr, config.task.ways) == (True, 0.4, 7)
    checked("train", "experiment=maml_omniglot_5w1s", "trainer.iterations=3")
    with pytest.raises(ConfigError, match=r"invalid experiment 'maml_5w1s'; did you mean maml_omniglot_5w1s"):
        checked("train", "experiment=maml_5w1s")


def test_task_brings_its_model_and_problem():
    config = composed("train", "task=sinusoid")
    assert (config.model._target_, config.task.problem._target_) == ("neo.nn.MLP", "meta.Regression")
    assert composed("train", "task=sinusoid", "model=conv4").model._target_ == "neo.nn.Conv4"


def test_building_leaves_references_as_they_are():
    """hydra resolves lists that another node reads, in place, and a checkpoint would then be of another task."""
    config = composed("train", "task=sinusoid", "+task.layers=[1,'${task.queries}',1]")
    before = OmegaConf.to_container(config, resolve=False)
    assert build(config.model).init(0)["linear0.weight"].shape == (10, 1)
    assert OmegaConf.to_container(config, resolve=False) == before


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3"])
@pytest.mark.parametrize(
    "name", ["train", "evaluate", "xray", "replay", "reproduce", "mnist", "bench", "compare"]
)
def test_device_is_typed_as_one_word(name, device):
    checked(name, f"device={device}")
    assert composed(name, f"device={device}").device == device


def test_device_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"invalid device 'gpu'; .*expected one of auto, cpu, cuda"):
        checked("train", "device=gpu")
