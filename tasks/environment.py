"""Worlds to act in: batched environments in torch, and tasks whose support and query sets are environments."""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import optree
import torch
from optree.registry import __GLOBAL_NAMESPACE as GLOBAL

from tasks.hashing import derive, unit
from tasks.streams import TaskStream
from tasks.task import Task

__all__ = ["Environment", "EnvironmentSampler", "EnvironmentSource", "Episodes"]

STRUCTURE = ("episodes", "horizon")  # of an environment, what is no tensor


class Episodes(NamedTuple):
    """What happened in a batch of episodes that ran side by side; the first axis is time."""

    observations: torch.Tensor  # (horizon, episodes, *observation): what was seen before each action
    actions: torch.Tensor  # (horizon, episodes, *action)
    rewards: torch.Tensor  # (horizon, episodes)


class Environment(ABC):
    """A world in which `episodes` episodes of `horizon` steps run side by side, on the device of its tensors.

    A subclass is a frozen dataclass of tensors that say which world it is, besides episodes and horizon; it is a pytree
    of those tensors. With a leading axis on each of them it is a meta-batch of worlds, which is indexed and never run.

    What is random in it draws from torch's functions, and so from neo.nn.draws where that is open: an algorithm's
    trajectories are a pure function of meta.Step.seed.
    """

    rank: ClassVar[int]
    """Axes of the first tensor, without that of a meta-batch."""

    episodes: int
    horizon: int

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        node: Any = cls
        optree.register_pytree_node(node, _flatten, functools.partial(_unflatten, cls), namespace=GLOBAL)

    @property
    def choices(self) -> int | None:
        """How many actions there are, where they are numbers from 0 on; None where they are not, or nobody says."""
        return None

    @abstractmethod
    def start(self) -> Any:
        """The states in which episodes begin: a pytree of tensors (episodes, ...)."""

    @abstractmethod
    def observe(self, state: Any) -> torch.Tensor:
        """What is seen of states: (episodes, *observation)."""

    @abstractmethod
    def step(self, state: Any, action: torch.Tensor) -> tuple[Any, torch.Tensor]:
        """The states after an action (episodes, *action), and the rewards for it, (episodes,).

        Raises: ValueError for actions of another shape.
        """

    def run(self, act: Callable[[torch.Tensor], torch.Tensor]) -> Episodes:
        """All episodes from start to horizon, with act: observations (episodes, *observation) → actions.

        Cost: horizon calls of act and of step.
        """
        state, seen, done, earned = self.start(), [], [], []
        for _ in range(self.horizon):
            observation = self.observe(state)
            action = act(observation)
            state, reward = self.step(state, action)
            seen.append(observation)
            done.append(action)
            earned.append(reward)
        return Episodes(torch.stack(seen), torch.stack(done), torch.stack(earned))

    @property
    def batched(self) -> bool:
        """True for a meta-batch of worlds."""
        return self._tensors()[0].ndim > self.rank

    def __len__(self) -> int:
        """Of a meta-batch, its worlds."""
        return len(self._tensors()[0])

    def __getitem__(self, index: int | slice) -> Self:
        return self._map(lambda tensor: tensor[index])

    def to(self, device: str | torch.device) -> Self:
        """The same world on another device."""
        return self._map(lambda tensor: tensor.to(device))

    def _tensors(self) -> list[torch.Tensor]:
        tree: Any = self
        return optree.tree_leaves(tree)

    def _map(self, fn: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        tree: Any = self
        mapped: Any = optree.tree_map(fn, tree)
        return mapped


def _flatten(world: Any) -> tuple[list[Any], Any, list[str]]:
    names = [field.name for field in dataclasses.fields(world) if field.name not in STRUCTURE]
    return [getattr(world, name) for name in names], tuple(getattr(world, name) for name in STRUCTURE), names


def _unflatten(cls: type, structure: Any, tensors: Iterable[Any]) -> Any:
    return cls(*tensors, **dict(zip(STRUCTURE, structure, strict=True)))


class EnvironmentSource(Protocol):
    """A family of worlds."""

    name: str
    split: str  # the settings that say which family it is

    def environment(self, keys: torch.Tensor, episodes: int) -> Environment:
        """The worlds of some tasks by their keys, (tasks,) int64 of tasks.hashing: a meta-batch."""

    @property
    def chance(self) -> float:
        """The mean return without having learned anything."""


class EnvironmentSampler(TaskStream):
    """Draws meta-batches of worlds: a task is a pure function of (seed, split, iteration, slot).

    Its support and query set are the same world, for `shots` and for `queries` episodes. What happens in them depends
    on the policy, and is drawn where they run.

    Args:
        source: an EnvironmentSource.
        others: as tasks.streams.TaskStream has them.
    Raises: ValueError naming the argument.
    """

    @property
    def title(self) -> str:
        return f"{self.shots} episode{'s' if self.shots > 1 else ''}"

    @property
    def chance(self) -> float:
        """The mean return without having learned anything."""
        return self.source.chance

    def sample(self, iteration: int | torch.Tensor, slots: int | Sequence[int] | torch.Tensor) -> Task:
        """The tasks of some slots of one iteration, stacked; arguments as EpisodeSampler.sample has them."""
        keys = self.keys(iteration, slots)
        support, query = (self.source.environment(keys, episodes) for episodes in (self.shots, self.queries))
        return Task(support, query)


def numbers(keys: torch.Tensor, count: int) -> torch.Tensor:
    """What a world is made of: (tasks, count) float32 in [0, 1), the same on every device."""
    return unit(derive(keys[:, None], torch.arange(count, device=keys.device)))


def expect_actions(environment: Environment, action: torch.Tensor, shape: Iterable[int], what: str) -> None:
    """Raise ValueError unless there is one action of `shape` for each episode."""
    wanted = (environment.episodes, *shape)
    if tuple(action.shape) != wanted:
        raise ValueError(
            f"{type(environment).__name__}: actions must be {wanted}, {what} for each episode; got "
            f"{tuple(action.shape)}. Give the model and task.problem.distribution that form."
        )
