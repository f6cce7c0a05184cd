"""Evaluate the last checkpoint of a run on unseen tasks: python scripts/evaluate.py run_dir=outputs/...

Prints mean and 95% interval, and writes them to evaluation.json in the run's folder.
"""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from meta.run import evaluate_run, sentence
from scripts import _command
from scripts._overrides import ConfigError


def job(config: DictConfig) -> None:
    if OmegaConf.is_missing(config, "run_dir"):
        raise ConfigError("run_dir is missing; name the folder of a run: run_dir=outputs/...")
    folder = Path(str(config.run_dir))
    overrides = {
        "device": config.device,
        "data_dir": config.data_dir,
        "evaluation.seed": config.seed,
        "evaluation.inner_steps": config.inner_steps,
    }
    result = evaluate_run(
        folder,
        tasks=config.tasks,
        part=config.part,
        which=config.checkpoint,
        overrides={key: value for key, value in overrides.items() if value is not None},
    )
    print(
        f"{sentence(result, config.part)}, {result['checkpoint']} after {result['iterations']} iterations\n"
        f"written: {folder / 'evaluation.json'}"
    )


def main() -> None:
    _command.run("evaluate", job)


if __name__ == "__main__":
    main()
