"""Where tasks come from: images, tables, tokens, functions, and the samplers that draw meta-batches from them.

>>> import tasks
>>> sampler = tasks.Glyphs().sampler("train", ways=5, shots=1, queries=15, seed=0)
>>> task = sampler.sample(iteration=0, slots=4)
>>> task.support.x.shape, task.query.y.shape
(torch.Size([4, 5, 1, 28, 28]), torch.Size([4, 75]))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.bandit import Arms, Bandit
    from tasks.columns import Columns
    from tasks.completion import Completion, CompletionSampler
    from tasks.dataset import CharacterSet
    from tasks.environment import Environment, EnvironmentSampler, Episodes
    from tasks.errors import DataError
    from tasks.function_tasks import FunctionSampler, FunctionTasks
    from tasks.glyphs import Glyphs
    from tasks.harmonic import Harmonic, HarmonicSampler
    from tasks.images import (
        CUB,
        FC100,
        CifarFS,
        Images,
        ImageSet,
        MiniImagenet,
        MultiLabelImages,
        MultiLabelSampler,
        PixelSampler,
        Segmentation,
        TieredImagenet,
    )
    from tasks.korteweg_de_vries import Collocation, KortewegDeVries, KortewegDeVriesSampler
    from tasks.lines import Lines, LineSampler
    from tasks.mnist_batches import MNIST, MNISTSampler
    from tasks.navigation import Navigation, PointMass
    from tasks.omniglot import Omniglot
    from tasks.quadratics import Quadratics, QuadraticSampler
    from tasks.sampler import EpisodeSampler
    from tasks.sinusoid import Sinusoid, SinusoidSampler
    from tasks.source import TaskSampler, TaskSource
    from tasks.splits import SPLITS, split_characters
    from tasks.table import Table, TableSampler
    from tasks.task import Batch, PixelBatch, Task
    from tasks.tasksets import Tasksets, TasksetSampler
    from tasks.tokens import Tokens, TokenSampler
    from tasks.unbalanced import UnbalancedSampler
    from tasks.varied import VariedSampler

__all__ = [
    "CUB",
    "FC100",
    "MNIST",
    "SPLITS",
    "Arms",
    "Bandit",
    "Batch",
    "CharacterSet",
    "CifarFS",
    "Collocation",
    "Columns",
    "Completion",
    "CompletionSampler",
    "DataError",
    "Environment",
    "EnvironmentSampler",
    "EpisodeSampler",
    "Episodes",
    "FunctionSampler",
    "FunctionTasks",
    "Glyphs",
    "Harmonic",
    "HarmonicSampler",
    "ImageSet",
    "Images",
    "KortewegDeVries",
    "KortewegDeVriesSampler",
    "LineSampler",
    "Lines",
    "MNISTSampler",
    "MiniImagenet",
    "MultiLabelImages",
    "MultiLabelSampler",
    "Navigation",
    "Omniglot",
    "PixelBatch",
    "PixelSampler",
    "PointMass",
    "QuadraticSampler",
    "Quadratics",
    "Segmentation",
    "Sinusoid",
    "SinusoidSampler",
    "Table",
    "TableSampler",
    "Task",
    "TaskSampler",
    "TaskSource",
    "TasksetSampler",
    "Tasksets",
    "TieredImagenet",
    "TokenSampler",
    "Tokens",
    "UnbalancedSampler",
    "VariedSampler",
    "split_characters",
]

# What lies where: a module is loaded when something of it is asked for, since each family of tasks brings libraries of
# its own (Pillow for images), and most programs draw from one.
_MODULES = {
    "tasks.bandit": ("Arms", "Bandit"),
    "tasks.columns": ("Columns",),
    "tasks.completion": ("Completion", "CompletionSampler"),
    "tasks.dataset": ("CharacterSet",),
    "tasks.environment": ("Environment", "EnvironmentSampler", "Episodes"),
    "tasks.errors": ("DataError",),
    "tasks.function_tasks": ("FunctionSampler", "FunctionTasks"),
    "tasks.glyphs": ("Glyphs",),
    "tasks.harmonic": ("Harmonic", "HarmonicSampler"),
    "tasks.images": (
        "CUB",
        "CifarFS",
        "FC100",
        "ImageSet",
        "Images",
        "MiniImagenet",
        "MultiLabelImages",
        "MultiLabelSampler",
        "PixelSampler",
        "Segmentation",
        "TieredImagenet",
    ),
    "tasks.korteweg_de_vries": ("Collocation", "KortewegDeVries", "KortewegDeVriesSampler"),
    "tasks.lines": ("LineSampler", "Lines"),
    "tasks.mnist_batches": ("MNIST", "MNISTSampler"),
    "tasks.navigation": ("Navigation", "PointMass"),
    "tasks.omniglot": ("Omniglot",),
    "tasks.quadratics": ("QuadraticSampler", "Quadratics"),
    "tasks.sampler": ("EpisodeSampler",),
    "tasks.sinusoid": ("Sinusoid", "SinusoidSampler"),
    "tasks.source": ("TaskSampler", "TaskSource"),
    "tasks.splits": ("SPLITS", "split_characters"),
    "tasks.table": ("Table", "TableSampler"),
    "tasks.task": ("Batch", "PixelBatch", "Task"),
    "tasks.tasksets": ("TasksetSampler", "Tasksets"),
    "tasks.tokens": ("TokenSampler", "Tokens"),
    "tasks.unbalanced": ("UnbalancedSampler",),
    "tasks.varied": ("VariedSampler",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'tasks' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
