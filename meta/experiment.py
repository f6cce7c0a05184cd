"""From a configuration to the objects that it names, and to the protocol that a published number must come with."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from meta import batch_norm
from meta.constants import checksum_of_constants
from meta.data_sizes import fitted
from meta.distributed import ALONE, Ranks
from meta.divergence import expect_finite_results
from meta.ensemble import Ensemble
from meta.evaluate import Evaluation, evaluate
from meta.imports import accepted, argument_names, expect_known_arguments, located
from meta.learner import MetaLearner
from meta.loggers import Loggers
from meta.machine import resolve_device, resolve_workers, versions
from meta.meta_batch import meta_gradient
from meta.model_fit import Looking, explained, too_many_outputs
from meta.outputs import first_outputs, outputs_to_look_at
from meta.parallel import Batched, Workers
from meta.pictures import Picture
from meta.precision import SamplerOf, precision_of
from meta.problems import Problem
from meta.targets import expect_targets
from meta.titles import run_title
from meta.trained import Trained
from meta.trainer import State, Trainer
from meta.warm_start import WarmStart, warm_start
from neo.typing import PyTree
from tasks import EpisodeSampler, TaskSampler, TaskSource, VariedSampler

__all__ = ["Experiment", "build"]

# Of config.task, what is no setting of its samplers. The last four are defaults of conf/algorithm and conf/model.
NOT_OF_SAMPLERS = ("dataset", "problem", "picture", "inner_lr", "inner_steps", "inner_clip", "layers")


class Experiment:
    """What conf/train.yaml describes, built when first asked for.

    Args:
        ranks: the place of this process in its run. All ranks of a run build and evaluate in the same order.
        outputs: look at so many of the model's outputs; the others get no gradient and no share of a softmax. None: at
            all of them.
        dataset: in the place of the one that config.task names, where it is built already.
    Raises: what the named classes raise for a value out of its range; see resolve_device.
    """

    def __init__(
        self,
        config: DictConfig,
        ranks: Ranks = ALONE,
        outputs: int | None = None,
        dataset: TaskSource | None = None,
    ) -> None:
        self.config, self.ranks, self.outputs, self._given_dataset = config, ranks, outputs, dataset
        self.device = ranks.device(resolve_device(config.device))
        word = config.evaluation.batch_norm
        if word != OmegaConf.select(config, "model.buffers"):  # which the model has a sentence of its own for
            batch_norm.policy(word)  # known before hours of training
        self.precision = precision_of(config.get("precision", "float32"))  # an earlier run has none

    @cached_property
    def dataset(self) -> TaskSource:
        if self._given_dataset is not None:
            return self._given_dataset
        with self.ranks.in_turn():
            return build(self.config.task.dataset)

    @cached_property
    def problem(self) -> Problem:
        problem: Problem = build(self.config.task.problem)
        if not isinstance(problem, Problem):
            raise ValueError(
                f"task.problem={self.config.task.problem._target_} must be a meta.Problem (meta.Supervised for losses "
                f"of a prediction and a target), got {type(problem).__name__}."
            )
        return problem

    @cached_property
    def learner(self) -> MetaLearner:
        target = located(self.config.algorithm._target_, "algorithm._target_")
        wanted = accepted(target, ("model", "problem"))
        parts: dict[str, Any] = {"problem": self.problem} if "problem" in wanted else {}
        if "training_classes" in argument_names(target):
            parts["training_classes"] = self._training_classes()
        if "model" in wanted:
            model = build(
                fitted(self.config.model, lambda: self.dataset),
                **self.precision.model_options(self.config.model),
            )
            parts["model"] = model if self.outputs is None else first_outputs(model, self.outputs)
        learner: MetaLearner = build(self.config.algorithm, **parts)
        if not isinstance(learner, MetaLearner):
            raise ValueError(
                f"algorithm._target_={self.config.algorithm._target_} must be a meta.MetaLearner, got "
                f"{type(learner).__name__}."
            )
        if self.precision.autocast is not None:
            learner.autocast = self.precision.autocast
        return learner

    def _training_classes(self) -> int:
        """How many classes the training tasks are drawn from."""
        classes = getattr(self.sampler("train"), "classes", None)
        if not isinstance(classes, int):
            raise ValueError(
                f"algorithm._target_={self.config.algorithm._target_} learns to tell all training classes apart, and "
                f"the tasks of {self.dataset.name} are not made of classes; choose another algorithm, or a task whose "
                "sampler has `classes`, as omniglot's has."
            )
        return classes

    @cached_property
    def workers(self) -> Workers:
        run = Batched if self.config.get("batched", False) else Workers
        return run(resolve_workers(self.config.workers, self.device, self.ranks))

    @cached_property
    def trainer(self) -> Trainer:
        trainer: Trainer = build(self.config.trainer)(
            self.learner,
            build(self.config.optimizer),
            seed=self.config.seed,
            metric=self.problem.metric.name,
            workers=self.workers,
            ranks=self.ranks,
            **({} if self.precision.dtype is None else {"dtype": self.precision.dtype}),
        )
        self.ranks.expect_work(trainer.tasks_per_update)
        return trainer

    @cached_property
    def logger(self) -> Loggers:
        """config.logger is one logger, by its _target_, or one under each of its keys."""
        nodes = {key: node for key, node in (self.config.logger or {}).items() if node is not None}
        return Loggers(
            [build(node) for node in ([self.config.logger] if "_target_" in nodes else nodes.values())]
        )

    @cached_property
    def picture(self) -> Picture | None:
        """What draws test tasks and what the adapted model made of them; None where nothing does."""
        return None if self.config.task.picture is None else build(self.config.task.picture)

    def sampler(self, part: str) -> TaskSampler:
        """The tasks of "train" (by task.seed), or of "val" and "test" (by evaluation.seed, the same for every run).

        What else config.task says is passed on; test_<name>, unless null, takes the place of <name> in validation and
        test.
        """
        task = self._task_settings()
        seed = task.pop("seed") if part == "train" else self.config.evaluation.seed
        settings = {
            key: value for key, value in task.items() if not key.startswith("test_") and key != "seed"
        }
        if part != "train":
            settings |= {
                key.removeprefix("test_"): value for key, value in task.items() if key.startswith("test_")
            }
        expect_known_arguments(
            self.dataset.sampler, settings, what=f"the sampler of {self.dataset.name}", key="task"
        )
        sampler = self.dataset.sampler(part, seed=seed, device=self.device, **settings)
        if isinstance(sampler, VariedSampler) and self.config.get("batched", False):
            raise ValueError(
                "task.varied=true gives tasks of different sizes, which batched=true cannot compute in one call; leave "
                "out one of them."
            )
        return sampler if self.precision.dtype is None else SamplerOf(sampler, self.precision.dtype)

    def title(self, sampler: TaskSampler) -> str:
        """What pictures of this run are headed by."""
        return run_title(self.learner, self.config.get("model"), self.dataset.name, sampler.title)

    @cached_property
    def warm_start(self) -> WarmStart | None:
        """What config.init_from gives to begin at; None without one."""
        source = self.config.get("init_from")
        if source is None:
            return None
        return warm_start(source, self.trainer.start(self.device).params)

    def start(self) -> State:
        """The state before the first step: a pure function of the seed, and of the run that init_from names."""
        state, warm = self.trainer.start(self.device), self.warm_start
        if warm is None:
            return state
        optimizer, learner = self.trainer.optimizer, self.learner
        return State(0, warm.params, optimizer.init(warm.params), learner.init_state(warm.params))

    def trained(self, state: State) -> Trained:
        """A state of this run, ready to adapt to tasks."""
        return self._trained(self.learner, state.params, state.state, state.step)

    def ensemble(self, states: Sequence[State]) -> Trained:
        """Several states of this run, whose predictions are averaged."""
        steps = [state.step for state in states]
        members, carried = ([getattr(state, part) for state in states] for part in ("params", "state"))
        return self._trained(Ensemble(self.learner, steps), members, carried, max(steps))

    def _trained(self, learner: MetaLearner, params: PyTree, state: PyTree, iteration: int) -> Trained:
        return Trained(
            learner,
            params,
            state,
            self.config,
            scored_by=self.problem,
            iteration=iteration,
            evaluation_seed=self.config.evaluation.seed,
            dtype=self.precision.dtype,
        )

    def evaluate(self, state: State, sampler: TaskSampler, tasks: int, *, record: bool = False) -> Evaluation:
        """Results on the first tasks of a sampler, with record after every inner step.

        Raises: TrainingError where adapting to one of them breaks down.
        """
        return self.evaluate_trained(self.trained(state), sampler, tasks, record=record)

    def evaluate_trained(
        self, trained: Trained, sampler: TaskSampler, tasks: int, *, record: bool = False
    ) -> Evaluation:
        """The same of what trained() or ensemble() gave."""
        evaluation, steps = self.config.evaluation, self.config.evaluation.inner_steps
        results = evaluate(
            trained.learner,
            trained.params,
            sampler,
            tasks,
            problem=self.problem,
            state=trained.state,
            iteration=trained.iteration,
            seed=evaluation.seed,
            inner_steps=steps,
            batch=evaluation.batch,
            batch_norm=evaluation.batch_norm,
            record=record,
            workers=self.workers,
            ranks=self.ranks,
        )
        part = getattr(sampler, "part", "held-out")
        expect_finite_results(part, results, trained, sampler, steps)
        return results

    def for_tasks_of(self, sampler: TaskSampler, trained: Trained) -> Experiment:
        """This experiment, or one that looks at as many of a classifier's outputs as the sampler's tasks have ways.

        As if the head had been made so small. trained: of any state.
        Raises: ValueError where the model has fewer outputs.
        """
        outputs = outputs_to_look_at(trained, sampler)
        if outputs is None:
            return self
        return Experiment(self.config, self.ranks, outputs=outputs, dataset=self.dataset)

    def expect_adaptation(self, state: State, sampler: TaskSampler) -> Evaluation:
        """Adapt to one held-out task and score it, so that a predictor of the wrong form is known before training.

        Raises: ValueError for an algorithm that has no use for such tasks, naming both, and for a model that does not
            fit them, saying both shapes; what the learner raises.
        """
        looking: Any = Looking(self.learner)
        with explained(self.learner, self.problem, lambda: sampler.sample(0, [0])[0], self.config):
            found = evaluate(
                looking,
                state.params,
                sampler,
                1,
                problem=self.problem,
                state=state.state,
                seed=self.config.evaluation.seed,
                inner_steps=self.config.evaluation.inner_steps,
                batch_norm=self.config.evaluation.batch_norm,
            )
        train = self.sampler("train")
        ways = (
            train.ways if isinstance(train, EpisodeSampler) and not isinstance(train, VariedSampler) else None
        )
        reason = too_many_outputs(
            looking.predictor, self.problem, sampler.sample(0, [0])[0], ways, self.config
        )
        if reason is not None:
            raise ValueError(reason)
        return found

    def expect_training(self, state: State, sampler: TaskSampler) -> None:
        """Take the meta-gradient of one training task, so that what only training meets is known before it begins.

        Raises: as expect_adaptation.
        """
        with explained(self.learner, self.problem, lambda: sampler.sample(0, [0])[0], self.config):
            meta_gradient(
                self.learner,
                state.params,
                sampler.sample(0, [0]),
                seed=self.config.seed,
                state=state.state,
                workers=self.workers,
            )

    def protocol(self) -> dict[str, Any]:
        """How the numbers of this run came about, flat: all that tasks, algorithm and evaluation were set to.

        ways, shots, queries, inner_lr, inner_steps, inner_reduction ... by their names in the configuration; what that
        calls evaluation.inner_steps is test_inner_steps here, and so on.
        """
        task, algorithm, evaluation = (self._plain(name) for name in ("task", "algorithm", "evaluation"))
        settings = self._task_settings()
        named = {"algorithm": algorithm.pop("_target_"), "task_seed": settings.pop("seed")}
        problem = {key: value for key, value in task["problem"].items() if key != "_target_"}
        tested = {
            "batch_norm": evaluation["batch_norm"],
            "evaluation_seed": evaluation["seed"],
            "test_inner_steps": evaluation["inner_steps"],
            "test_tasks": evaluation["tasks"],
        }
        trained = {key: self.config.trainer[key] for key in ("meta_batch", "iterations")}
        trained |= {key: value for key in ("accumulate",) if (value := self.config.trainer.get(key, 1)) != 1}
        source = {"dataset": self.dataset.name, "split": self.dataset.split}
        return settings | algorithm | problem | named | trained | tested | source

    def _task_settings(self) -> dict[str, Any]:
        """What config.task says of its samplers; a test_<name> that is null says nothing."""
        return {
            key: value
            for key, value in self._plain("task").items()
            if key not in NOT_OF_SAMPLERS and not (key.startswith("test_") and value is None)
        }

    def _plain(self, node: str) -> dict[str, Any]:
        plain = OmegaConf.to_container(self.config[node], resolve=True)
        assert isinstance(plain, dict)
        return {str(key): value for key, value in plain.items()}

    def data(self) -> dict[str, Any]:
        """What the run learns from: its data, and "model_constants", a checksum of weights that it never learns."""
        constants = checksum_of_constants(getattr(self.learner, "model", None))
        return self.dataset.describe() | ({} if constants is None else {"model_constants": constants})

    def about(self) -> dict[str, Any]:
        """What a checkpoint says of the run that it is of."""
        return {
            "config": OmegaConf.to_container(self.config, resolve=True),
            "composed": OmegaConf.to_container(
                self.config, resolve=False
            ),  # references kept, so that values can change
            "seeds": {
                "seed": self.config.seed,
                "task": self.config.task.seed,
                "evaluation": self.config.evaluation.seed,
            },
            "data": self.data(),
            "versions": versions(),
        }


def build(node: DictConfig, **arguments: Any) -> Any:
    """The object that a config node names by _target_.

    Raises: ValueError for a _target_ that is not there, or does not take what it is given; what its constructor raised,
        unwrapped.
    """
    expect_targets(node)
    # hydra resolves what a node refers to in place: a list of config.task, say, that the model reads by oc.select.
    root, key = copy.deepcopy(node._get_root()), str(node._get_full_key(None))
    try:
        return instantiate(OmegaConf.select(root, key) if key else root, _convert_="all", **arguments)
    except InstantiationException as error:
        if error.__cause__ is None:
            raise
        raise error.__cause__ from None
