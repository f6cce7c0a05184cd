"""What a meta-gradient of each algorithm costs: python -m benchmarks.algorithm_costs [task.ways=20 ...]

Processor time, in alternation, so that other work on the machine moves it little; of one thread, 5-way 1-shot with 15
queries on generated characters unless overrides say otherwise, each algorithm as its configuration has it.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from meta.cli.configs import composed
from meta.cli.overrides import groups
from meta.experiment import Experiment
from meta.meta_batch import MetaBatch

TASKS, TURNS = 4, 5


def main() -> None:
    torch.set_num_threads(1)
    runs = {}
    for name in groups()["algorithm"]:
        experiment = Experiment(
            composed("train", [f"algorithm={name}", "device=cpu", "workers=1", *sys.argv[1:]])
        )
        learner, params = experiment.learner, experiment.learner.init(seed=0)
        state = learner.init_state(params)
        tasks = experiment.sampler("train").sample(0, TASKS)
        runs[name] = (MetaBatch(learner, state), params, tasks, state)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, (batch, params, tasks, state) in runs.items():
            begin = time.process_time()
            batch.gradient(params, tasks, 0, range(TASKS), state)
            if turn:  # the first one warms up
                seconds[name].append((time.process_time() - begin) / TASKS)
    maml = statistics.median(seconds["maml"])
    for name, found in sorted(seconds.items(), key=lambda item: statistics.median(item[1])):
        median = statistics.median(found)
        print(f"{name:15} {1e3 * median:8.1f} ms a task {median / maml:6.2f} times maml")


if __name__ == "__main__":
    main()
