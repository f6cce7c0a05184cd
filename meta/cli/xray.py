"""Split a run's meta-gradient into its first-order and its curvature part: python scripts/xray.py run_dir=outputs/...

Layer by layer and inner step by inner step, and what each estimator would have lost on the same tasks. Prints a verdict
(first order is safe here, or which layers need the second order) and tables, and leaves them in the run's folder with a
picture.
"""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig

from meta.cli import command
from meta.cli.finished import folder_of, printing_what_is_not_written
from meta.cli.overrides import ConfigError
from meta.estimators import Estimator, estimator_named
from meta.xray.report import markdown
from meta.xray_run import xray_run

COMPARED = (
    "implicit",
    "es",
)  # first_order and truncated are there already, reverse and mixed are the exact one

# Values of conf/xray.yaml that take the place of the run's own where they are given.
OWN = {"seed": "evaluation.seed", "device": "device", "workers": "workers", "data_dir": "data_dir"}


def job(config: DictConfig) -> None:
    folder = folder_of(config)
    with printing_what_is_not_written(folder, config.name, "take the X-ray again"):
        result = xray_run(
            folder,
            tasks=config.tasks,
            part=config.part,
            which=config.checkpoint,
            inner_steps=config.inner_steps,
            parts=config.parts,
            dtype=config.dtype,
            safe=config.safe,
            estimators=estimators(config),
            name=config.name,
            overrides={place: config[key] for key, place in OWN.items() if config[key] is not None},
        )
    print(result["verdict"])
    print()
    print(markdown(result))
    print(
        "written: "
        + "\n         ".join(str(folder / f"{config.name}{end}") for end in (".json", ".md", ".csv"))
    )
    print(f"         {folder / 'plots' / config.name}.png, .pdf, .svg")


def estimators(config: DictConfig) -> dict[str, Estimator]:
    """Those that config.estimators names, with their settings. Raises: ConfigError for what is none of them."""
    names = config.estimators or []
    unknown = [name for name in names if name not in COMPARED]
    if unknown:
        raise ConfigError(
            f"estimators={','.join(map(str, names))}: {unknown[0]!r} cannot be asked for; first_order and truncated "
            f"are always there, reverse and mixed are the exact one. Choose among {', '.join(COMPARED)}; [] for none."
        )
    settings: dict[str, dict[str, Any]] = {name: {} for name in COMPARED}
    for key in map(str, config):
        name = key.partition("_")[0]
        if name in settings and config[key] is not None:
            settings[name][key] = config[key]
            if name not in names:
                raise ConfigError(
                    f"{key}={config[key]}: nothing would read it, for {name} is not among estimators; leave it out."
                )
    return {name: estimator_named("xray", name, **settings[name]) for name in names}


def main() -> None:
    command.run("xray", job)


if __name__ == "__main__":
    main()
