"""Evaluate a run on unseen tasks: python scripts/evaluate.py run_dir=outputs/... inner_steps=10 batch_norm=support

Prints mean and 95% interval after each inner step, and leaves them in the run's folder, with every task's results, for
scripts/paired.py to compare two runs task by task. protocol=all puts one checkpoint under every published protocol, and
says how much of the number is protocol.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from meta.cli import command
from meta.cli.finished import folder_of, printing_what_is_not_written
from meta.cli.overrides import ConfigError
from meta.evaluate_run import evaluate_run
from meta.outcome import sentence
from meta.plausibility import chance_warning
from meta.problems import metric_of
from meta.protocols import PLACES, compare_protocols, markdown


def job(config: DictConfig) -> None:
    folder = folder_of(config)
    every = config.protocol == "all"
    if not every and config.protocol is not None:
        raise ConfigError(
            f"protocol={config.protocol}: expected all, or null for the run's own with what else is given."
        )
    name = config.name or ("protocols" if every else "evaluation")
    # Values of conf/evaluate.yaml that take the place of the run's own where they are given.
    overrides = {place: config[key] for key, place in PLACES.items() if config[key] is not None}
    call = compare_protocols if every else evaluate_run
    with printing_what_is_not_written(folder, name, "evaluate again"):
        result = call(
            folder,
            tasks=config.tasks,
            part=config.part,
            which=config.checkpoint,
            name=name,
            overrides=overrides,
        )
    if every:
        print(f"{result['verdict']}\n\n{markdown(result)}")
        written(folder, name, (".json", ".md"))
        return
    print(f"{sentence(result, config.part)}, {result['checkpoint']} after {result['iterations']} iterations")
    warning = chance_warning(result, config.part)
    if warning is not None:
        command.print_error(warning)
    print(table(result, config.part))
    written(folder, name, (".json", ".safetensors"))


def written(folder: Path, name: str, endings: Sequence[str]) -> None:
    print("written: " + "\n         ".join(str(folder / f"{name}{end}") for end in endings))
    print(f"         {folder / 'plots' / name}.png, .pdf, .svg")


def table(result: Mapping[str, Any], part: str) -> str:
    """A line for each number of inner steps."""
    metric = metric_of(result)
    lines = [f"{'inner steps':>11}  {metric.name:>16}  {'loss':>8}"]
    for step, at in enumerate(result[f"{part}/steps"]):
        said = "not finite" if at[metric.name] is None else metric.format(at[metric.name], at["ci95"] or 0.0)
        loss = "not finite" if at["loss"] is None else f"{at['loss']:.4f}"
        lines.append(f"{step:>11}  {said:>16}  {loss:>8}")
    return "\n".join(lines)


def main() -> None:
    command.run("evaluate", job)


if __name__ == "__main__":
    main()
