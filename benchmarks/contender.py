"""The orchestrator's hold on one worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.settings import describe, environment
from benchmarks.step import Arrays, Spec

__all__ = ["Contender", "ContenderError", "Missing", "memory_limit"]

ROOT = Path(__file__).resolve().parents[1]


class ContenderError(Exception):
    """A worker failed, died, or took too long; the message names contender and setting, and says how.

    why: the last part alone.
    """

    def __init__(self, who: str, why: str) -> None:
        super().__init__(f"{who}: {why}" if who else why)
        self.why = why


class Missing(ContenderError):
    """The contender's library is not installed."""


class Contender:
    """A worker process for one contender at one setting. Use as a context manager: it ends with the block.

    Args:
        limit_s: a reply that takes longer ends the worker, with a ContenderError.
        memory: bytes that the worker may claim; what asks for more fails in the worker, not on the machine.
        python: of another environment than this one's.
    """

    def __init__(
        self, spec: Spec, *, limit_s: float, memory: int | None, python: str = sys.executable
    ) -> None:
        self.spec, self.limit_s = spec, limit_s
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [python, "-P", "-m", "benchmarks.worker"],
            env={**os.environ, "PYTHONPATH": path, **environment(spec.setting)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            encoding="utf-8",
        )
        self._memory = memory
        try:
            self.build(spec)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Contender:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def build(self, spec: Spec) -> None:
        """Build anew, in the same process: the same contender at another size or dtype."""
        self.spec = spec
        self._ask(do="build", spec=spec._asdict(), memory_limit=self._memory)

    def run(self) -> tuple[float, int]:
        """One turn: its seconds, and the most memory so far in bytes."""
        reply = self._ask(do="run")
        return reply["seconds"], reply["peak_bytes"]

    def check(self) -> Arrays:
        """One turn, and what it computed."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "result.npz"
            self._ask(do="check", path=str(path))
            with np.load(path) as arrays:
                return dict(arrays)

    def close(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()  # it holds nothing worth saving
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._log.close()

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        timer = threading.Timer(self.limit_s, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            late = not timer.is_alive()
            timer.cancel()
        who = f"{self.spec.peer} ({describe(self.spec.setting)})"
        if not line:
            why = f"took longer than {self.limit_s:g} s" if late else f"died: {self._last_words()}"
            raise ContenderError(who, why)
        reply = json.loads(line)
        if "error" in reply:
            if reply["kind"] == "NotInstalled":
                raise Missing("", reply["error"])
            raise ContenderError(who, f"{reply['kind']}: {reply['error']}")
        return reply

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return lines[-1] if lines else f"exit code {self._process.wait()}"


def memory_limit() -> int | None:
    """Four fifths of the memory that is free now, in bytes; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    free = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    return free[0] * 4 // 5 if free else None
