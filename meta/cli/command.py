"""What every command shares: composing its configuration, and failing in one sentence."""

from __future__ import annotations

import contextlib
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException
from yaml import YAMLError

from meta.checkpoint import CheckpointError
from meta.cli import searchpath, sweeps
from meta.cli.configs import CONF
from meta.cli.help import help_text
from meta.cli.overrides import ConfigError, check, parse, value_of
from meta.distributed import RankError, launched
from meta.interruption import Interrupted
from meta.trainer import TrainingError
from neo.errors import NeoError
from neo.runtime import keep_freed_memory
from tasks import DataError

__all__ = ["print_error", "print_line", "report_errors", "run"]

# What a user can do something about: their message is the whole story. Anything else is a fault of ours, and its
# traceback is shown.
EXPECTED = (
    CheckpointError,
    DataError,
    HydraException,
    NeoError,
    NotImplementedError,
    OmegaConfBaseException,
    OSError,
    RankError,
    TrainingError,
    ValueError,
    YAMLError,
)


def run(
    config_name: str,
    job: Callable[[DictConfig], Any],
    before: Callable[[str, Sequence[Override], bool], Sequence[str]] = lambda name, overrides, sweeping: (),
    in_ranks: bool = False,
) -> None:
    """Compose conf/<config_name>.yaml with the command line, call job with it; exit 1 with a sentence where that fails.

    What a configuration names by import path may lie in the current folder, or beside a folder of configurations that
    --config-dir or hydra.searchpath names.

    Args:
        job: is called once, or with -m once an arm of the sweep, in a process that keeps its working directory.
            What it returns is what a search over arms maximises.
        before: looks at the configuration's name, the overrides, and whether they sweep (-m), before hydra has written
            anything; gives further overrides.
        in_ranks: whether job knows what to do in each of several processes that torchrun started.
    """
    importable: list[str] = []
    debug = bool(os.environ.get("HYDRA_FULL_ERROR")) or "debug=true" in sys.argv[1:]

    def guarded(config: DictConfig) -> Any:
        keep_freed_memory()  # here, because an arm of a sweep may run in another process
        _import_from(importable)
        try:
            return job(config)
        except KeyboardInterrupt as interrupt:
            _interrupted(interrupt)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # the other arms go on; hydra says which one failed, and the sentence comes at the end
            _fail(error, debug)

    given = sys.argv
    full_error = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hydra then raises its errors instead of printing them
    try:
        arguments = get_args_parser().parse_intermixed_args()
        overrides = parse(arguments.overrides)
        sweeping = arguments.multirun or value_of(overrides, "hydra.mode") == RunMode.MULTIRUN.name
        ranks = launched(os.environ)
        if ranks.size > 1 and not in_ranks:
            raise ConfigError(
                f"{config_name} runs in one process, and torchrun has started {ranks.size}; start it without torchrun."
            )
        if ranks.size > 1 and sweeping:
            raise ConfigError(
                "-m starts one run after another, torchrun shares out one run; use either. A launcher spreads a sweep "
                "over processes and machines."
            )
        if arguments.config_path:
            raise ConfigError(
                f"--config-path={arguments.config_path} would take the place of Neo's configurations, by which what is "
                "typed is checked; give your own files with --config-dir, which adds them to Neo's."
            )
        sweeps.require(value_of(overrides, "sweep"))
        importable.append(str(Path.cwd()))
        _import_from(importable)
        folders = searchpath.folders_of(arguments.config_dir, value_of(overrides, searchpath.SEARCHPATH))
        importable += [str(folder.parent) for folder in folders]
        _import_from(importable)
        if not (arguments.hydra_help or arguments.info):
            name = arguments.config_name or config_name
            flags = [f"--config-dir={arguments.config_dir}"] if arguments.config_dir else []
            checked = [
                *check(name, overrides, sweeping, folders, flags),
                *searchpath.override_of(folders),
            ]
            if arguments.help:
                composing = [one.input_line or "" for one in parse(checked) if not one.is_sweep_override()]
                about = inspect.getdoc(sys.modules[job.__module__])
                print(help_text(name, composing, folders, Path(given[0]).name, about))
                return
            sys.argv = [*(one for one in given if one not in arguments.overrides), *checked]
            if not arguments.cfg:
                sys.argv += before(name, parse(checked), sweeping)
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()
    except KeyboardInterrupt as interrupt:
        _interrupted(interrupt)
    except Exception as error:
        _fail(error, debug)
    finally:
        sys.argv = given
        GlobalHydra.instance().clear()
        if full_error is None:
            os.environ.pop("HYDRA_FULL_ERROR", None)


def _import_from(folders: Sequence[str]) -> None:
    """Let configurations name what lies in these folders: last, so that no file there hides one of Neo's modules."""
    sys.path += [folder for folder in folders if folder not in sys.path]


@contextlib.contextmanager
def report_errors() -> Iterator[None]:
    """Print an error as one sentence and exit with 1: for commands without hydra, as run() does it for the others."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        _interrupted(interrupt)
    except Exception as error:
        _fail(error, debug=False)


def print_error(sentence: str) -> None:
    """Print a line on stderr in one write: print() writes the line's end by itself, and another rank's words come in
    between."""
    sys.stderr.write(f"{sentence}\n")


def print_line(sentence: str) -> None:
    """The same on stdout, which the arms of a sweep share."""
    sys.stdout.write(f"{sentence}\n")


def _fail(error: Exception, debug: bool) -> NoReturn:
    if debug or not isinstance(error, EXPECTED):
        traceback.print_exception(error)
    if isinstance(error.__cause__, OSError) and "Unable to configure handler" in str(error):
        error = error.__cause__  # hydra's log file could not be opened; logging says no more than that
    if isinstance(error, InterpolationKeyError):
        key = error.full_key
        sentence = (
            f"{key} is not set: {str(error.msg).splitlines()[0]}. Give {key} a value, or choose another "
            f"{(key or '').split('.')[0]}=... that fits the other groups."
        )
    elif isinstance(error, OSError) and error.strerror:
        sentence = f"{error.filename or 'the system'}: {error.strerror}"
    else:
        sentence = " ".join(str(error).split())
    rank = os.environ.get("RANK", "0") if "TORCHELASTIC_RUN_ID" in os.environ else "0"
    print_error(f"error{f' in rank {rank}' if rank != '0' else ''}: {sentence or type(error).__name__}")
    sys.exit(1)


def _interrupted(interrupt: KeyboardInterrupt) -> NoReturn:
    print_error("interrupted.")
    sys.exit(128 + (interrupt.number if isinstance(interrupt, Interrupted) else signal.SIGINT))
