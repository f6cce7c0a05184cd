"""Weights & Biases."""

from __future__ import annotations

import logging
import netrc
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from meta.files import atomic_write
from meta.loggers.logger import Logger, format_error

__all__ = ["Wandb", "has_key"]

ONLINE = ("online", "run", "shared")  # the values of WANDB_MODE that want a connection

log = logging.getLogger(__name__)


class Wandb(Logger):
    """Weights & Biases: online where there is an API key, otherwise offline; never a prompt.

    A key is WANDB_API_KEY or an entry in netrc for the host that WANDB_BASE_URL names. WANDB_MODE has the last word,
    except that nothing goes online without a key. A run that is resumed goes on under its id, in wandb/run-id.

    A dead network costs a line of warning, and timeout_s at the start or the end; then the run is kept offline.

    Args:
        project: of the run.
        name: of the run in the project; None for one made up by wandb.
        timeout_s: how long going online, and sending what is left at the end, may take, in seconds, > 0.
    """

    name = extra = "wandb"

    def __init__(self, project: str = "neo", name: str | None = None, timeout_s: float = 10.0) -> None:
        if not timeout_s > 0:
            raise ValueError(
                f"Wandb: timeout_s={timeout_s} is invalid; choose a number of seconds greater than 0."
            )
        self.project, self.run_name, self.timeout_s = project, name, timeout_s
        self._wandb: Any = None
        self._run: Any = None

    def start(self, folder: Path, config: Mapping[str, Any], resumed: bool) -> None:
        mode = os.environ.get("WANDB_MODE") or ("online" if has_key() else "offline")
        if mode in ONLINE and not has_key():
            log.warning(
                "WANDB_MODE=%s needs an API key, and there is none; wandb keeps the run offline.", mode
            )
            mode = "offline"

        if mode in ONLINE:
            try:
                self._begin(mode, folder, config, resumed, new_id=not resumed)
                return
            except ImportError:
                raise
            except Exception as error:
                log.warning("wandb could not go online (%s); it keeps the run offline.", format_error(error))
            # Under a new id: wandb still holds the one that it did not get online.
            self._begin("offline", folder, config, resumed, new_id=True)
        else:
            self._begin(mode, folder, config, resumed, new_id=not resumed)

    def _begin(
        self, mode: Any, folder: Path, config: Mapping[str, Any], resumed: bool, *, new_id: bool
    ) -> None:
        import wandb

        self._wandb = wandb
        self._run = wandb.init(
            project=self.project,
            name=self.run_name,
            id=_run_id(folder / "wandb" / "run-id", new_id),
            resume="allow",
            reinit="create_new",  # never the run of somebody else in this process
            dir=str(folder),
            config=dict(config),
            mode=mode,
            tags=["resumed"] if resumed else None,
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=self.timeout_s,
                finish_timeout=self.timeout_s,
                finish_timeout_raises=True,
            ),
        )

    def destination(self) -> str | None:
        if self._run.offline:
            folder = shlex.quote(str(Path(self._run.dir).parent))
            return f"offline; to send it later: wandb sync {folder}"
        return self._run.url

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=step)

    def finish(self, result: Mapping[str, Any], pictures: Mapping[str, Path]) -> None:
        self._run.log({name: self._wandb.Image(str(path)) for name, path in pictures.items()})
        self._run.summary.update(dict(result))
        self._end(0)

    def close(self) -> None:
        if self._run is not None:
            self._end(1)

    def _end(self, exit_code: int) -> None:
        run, self._run = self._run, None
        folder = Path(run.dir).parent
        try:
            run.finish(exit_code=exit_code)
        except TimeoutError:
            log.warning(
                "wandb could not send all within %g s; what is left: wandb sync %s", self.timeout_s, folder
            )


def has_key() -> bool:
    """Whether wandb would find an API key without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _run_id(path: Path, new: bool) -> str:
    """The id of a run in wandb, made up where there is none or it has to be new, and kept in its folder."""
    if not new and path.exists():
        return path.read_text(encoding="ascii").strip()
    name = secrets.token_hex(4)
    atomic_write(path, f"{name}\n".encode())
    return name
