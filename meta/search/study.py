"""The study in its storage: opened by the search and by each of its trials, and refused where it is another's."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from meta.cli.value_types import ConfigError

__all__ = ["opened", "storage"]

PATIENCE_S = 60.0  # that a trial waits for another one's write to an SQLite file


def storage(address: str) -> BaseStorage:
    """A database by its URL, or the journal in a file whose name ends with .log, for file systems without locks.

    Raises: ConfigError for tables of another version of Optuna, or a storage that cannot be opened.
    """
    if "://" not in address:
        if not address.endswith(".log"):
            raise ConfigError(
                f"hydra.sweeper.storage={address} is neither the URL of a database, as sqlite:///study.db, nor a "
                "journal, a file whose name ends with .log."
            )
        Path(address).parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(address))
    try:
        url = make_url(address)
        sqlite = url.get_backend_name() == "sqlite"
        if sqlite and url.database:
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        settings: dict[str, Any] = {"connect_args": {"timeout": PATIENCE_S}} if sqlite else {}
        return RDBStorage(address, engine_kwargs=settings)
    except RuntimeError as error:  # its tables are of another version, says Optuna
        raise ConfigError(
            f"{address} was written by another version of Optuna and cannot be gone on with by {optuna.__version__}; "
            f"upgrade its tables (a copy first: optuna storage upgrade --storage {address}), or begin a new study: "
            f"hydra.sweeper.study_name=..."
        ) from error
    except (ArgumentError, OperationalError, ImportError) as error:
        raise ConfigError(
            f"hydra.sweeper.storage={address} cannot be opened: {str(error).splitlines()[0]}."
        ) from error


def opened(
    name: str, address: str, directions: Sequence[str], names: Sequence[str], pruner: BasePruner
) -> optuna.Study:
    """The study of this name, made if there is none.

    Raises: ConfigError for one that looks for something else; what storage() raises.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # its lines about every trial are ours to write
    study = optuna.create_study(
        study_name=name,
        storage=storage(address),
        directions=[StudyDirection[direction.upper()] for direction in directions],
        pruner=pruner,
        load_if_exists=True,
    )
    found = [direction.name.lower() for direction in study.directions]
    called = study.metric_names or list(names)
    if found != list(directions) or called != list(names):
        raise ConfigError(
            f"study {name} in {address} is to {_said(found, called)}, and this command to {_said(directions, names)}; "
            "choose another hydra.sweeper.study_name, or the objectives that it has."
        )
    if study.metric_names is None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", optuna.exceptions.ExperimentalWarning
            )  # it may change, and loses a name
            study.set_metric_names(list(names))
    return study


def _said(directions: Sequence[str], names: Sequence[str]) -> str:
    return " and ".join(f"{direction} {name}" for direction, name in zip(directions, names, strict=False))
