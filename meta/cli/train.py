"""Meta-train, test on unseen tasks, and leave a run folder: python scripts/train.py task=omniglot seed=1

Everything in conf/train.yaml and its groups can be overridden. To continue a run that was stopped:
python scripts/train.py resume=RUN_DIR
To know what a run would be, take one step of it, and write nothing:
python scripts/train.py --dry-run task=omniglot
On several processes, which share each meta-batch: torchrun --nproc-per-node=4 scripts/train.py task=omniglot seed=1

-m sweeps: python scripts/train.py -m algorithm.inner_lr=0.1,0.4 seed=0,1,2
See conf/sweep/ for several arms at a time, on one machine or many, and for searches.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from meta.cli import command, folders, sweeps
from meta.cli.configs import composed
from meta.cli.dry_run import FLAG, DryRun
from meta.cli.overrides import ConfigError, value_of
from meta.cli.value_types import quoted
from meta.distributed import Ranks, launched
from meta.divergence import TrainingError
from meta.files import lock_dir
from meta.interruption import Stopped
from meta.outcome import sentence, validation_score
from meta.planning import settled
from meta.plausibility import chance_warning
from meta.record import RESUMABLE, may_change
from meta.resume import holds_run, resumed_config
from meta.run import Run
from meta.search import pruning
from meta.targets import expect_targets


def job(config: DictConfig) -> float | None:
    """Train, and give the last validation score for a search to maximise: of an error, its negative."""
    ranks = launched(os.environ)
    with ranks.connected(config.rank_timeout_s):
        if ranks.first:
            return lead(config, ranks)
        follow(ranks)
        return None


def follow(ranks: Ranks) -> None:
    """What the other ranks do: as the first says, which alone has a folder."""
    config, folder, resume = ranks.broadcast_object()
    Run(config, folder, resume=resume, ranks=ranks).train()


def lead(config: DictConfig, ranks: Ranks) -> float | None:
    """Claim the run's folder and train in it; until the run begins, whatever is refused leaves the folder as it was."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    with lock_dir(folder), folders.logged(folder / f"{HydraConfig.get().job.name}.log") as open_log:
        return _train(config, ranks, folder, open_log)


def _train(config: DictConfig, ranks: Ranks, folder: Path, open_log: Callable[[], None]) -> float | None:
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    arm = f"arm {folder.name}: " if sweeping else ""
    resume = config.resume is not None
    if resume:
        given = [override.split("=")[0].lstrip("+") for override in HydraConfig.get().overrides.task]
        config = resumed_config(
            folder, {key: OmegaConf.select(config, key) for key in given if key != "resume"}
        )
    else:
        earlier = sweeps.earlier_run(folder, config) if sweeping else None
        resume = earlier is not None
        if earlier is not None:
            config = earlier
        else:
            _expect_free(folder)
            config, chosen = settled(config, ranks)
            if chosen:
                command.print_line(f"{arm}{chosen}")
    ranks.broadcast_object((config, folder, resume))
    try:
        with sweeps.record_failure(folder) as forget_failure:

            def begin() -> None:
                forget_failure()
                open_log()

            if not resume:
                begin()
                folders.write_configuration(folder, config)
            run = Run(
                config,
                folder,
                resume=resume,
                ranks=ranks,
                locked=True,
                begin=begin if resume else None,
                validated=pruning.reporter(HydraConfig.get().sweeper if sweeping else {}),
            )
            result = run.train()
    except Stopped as stop:
        command.print_line(f"{arm}{stop}")
        return None
    except FileExistsError as error:
        raise ConfigError(_taken(folder)) from error
    except TrainingError as error:
        raise TrainingError(f"{error} The checkpoints before it are in {folder / 'checkpoints'}.") from error
    except BlockingIOError:  # another process is in the folder, and says all there is to say
        raise
    except OSError as error:
        if not holds_run(folder):
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise OSError(
            f"{where}{error.strerror or error}. What was written before is whole; when there is room or leave to write "
            f"again, continue with: {_resume(folder)}"
        ) from error
    except KeyboardInterrupt:
        if holds_run(folder):
            command.print_error(f"\nstopped; continue with: {_resume(folder)}")
        raise
    command.print_line(
        f"{arm}{sentence(result)}, {result['iterations']} iterations, {result['seconds']:.0f} s"
    )
    warning = chance_warning(result)
    if warning is not None:
        command.print_error(f"{arm}{warning}")
    if run.was_finished and not sweeping:
        print(
            f"nothing was left to do: the run had finished. To make it longer: {_resume(folder)} "
            f"trainer.iterations=N, with N more than {result['iterations']}."
        )
    if not sweeping:
        pictures = [f"{path}, .pdf, .svg" for path in sorted((folder / "plots").glob("*.png"))]
        print("pictures: " + "\n          ".join(pictures))
    return validation_score(folder)


def before(config_name: str, overrides: Sequence[Override], sweeping: bool) -> Sequence[str]:
    """Point hydra at the folder of a run to be resumed or at a new one, and let it write nothing there.

    Of several ranks only the first has a folder, and so agrees with itself on the time in its name.
    """
    if not launched(os.environ).first:
        return "hydra.run.dir=.", folders.QUIET, "hydra/job_logging=stdout"
    resume = value_of(overrides, "resume")
    if resume is None:
        if sweeping:
            return *sweeps.prepare(config_name, overrides), folders.QUIET
        sweeps.expect_no_sweep(overrides)
        typed = [override.input_line or "" for override in overrides]
        config = composed(config_name, typed, with_hydra=True)
        expect_targets(config)
        folder = folders.own_dir(config.hydra.run)
        return folders.QUIET, *([f"hydra.run.dir={quoted(folder)}"] if folder else [])
    if sweeping:
        raise ConfigError(
            "resume continues one run, -m starts several; leave -m out. A sweep goes on when its command is given "
            "again."
        )
    folder = Path(str(resume))
    if not (folder / "checkpoints").is_dir():
        raise ConfigError(
            f"resume={folder} is not the folder of a run: it has no checkpoints/. Name one that has; a run that was "
            "stopped before its first checkpoint is started again."
        )
    for override in overrides:
        key = override.key_or_group
        if not may_change(key) and key.split(".")[0] != "hydra" and not key.startswith("hydra/"):
            raise ConfigError(
                f"{key} cannot change when a run is resumed, for its past steps depended on it; leave it out, or "
                f"start a new run. What may change: {', '.join(RESUMABLE[1:])}."
            )
    return f"hydra.run.dir={quoted(folder)}", folders.QUIET


def _expect_free(folder: Path) -> None:
    """Raise ConfigError where a folder holds a run, or a sweep, whose arms would no longer be found."""
    if holds_run(folder):
        raise ConfigError(_taken(folder))
    if (folder / sweeps.RECORD).exists():
        raise ConfigError(
            f"{folder} holds a sweep, and a run needs a folder of its own; choose another hydra.run.dir, or of an arm "
            "another hydra.sweep.subdir."
        )


def _taken(folder: Path) -> str:
    return (
        f"{folder} holds a run already; continue it with {_resume(folder)}, or choose another hydra.run.dir."
    )


def _resume(folder: Path) -> str:
    """The override that continues a run, as a shell takes it."""
    if re.fullmatch(r"[\w./:@+-]+", str(folder), re.ASCII):
        return f"resume={folder}"
    return shlex.quote(f"resume={quoted(folder)}")


def main() -> None:
    if FLAG in sys.argv[1:]:
        sys.argv = [one for one in sys.argv if one != FLAG]
        dry_run = DryRun(_expect_free)
        command.run("train", dry_run.job, dry_run.before, in_ranks=True)
    else:
        command.run("train", job, before, in_ranks=True)


if __name__ == "__main__":
    main()
