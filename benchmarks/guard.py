"""The guard: have the ratios to the peers held against those recorded?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.record import Found

__all__ = ["ALLOWED_LOSS", "lost"]

ALLOWED_LOSS = 0.15  # of a recorded ratio; ratios of one machine vary by less


def lost(recorded: Mapping[str, Found], now: Sequence[Found]) -> list[str]:
    """A sentence for each ratio (peer's time over Neo's) that lost more than ALLOWED_LOSS; none if all have held.

    Ratios and not times, as another machine has other times. A peer that is not in both is not compared.
    Raises: ValueError where nothing is in both.
    """
    sentences, compared = [], 0
    for found in now:
        rows = recorded[found.name].rows if found.name in recorded else ()
        before = {(row.peer, row.tasks): row.ratio for row in rows}
        for row in found.rows:
            if row.peer.startswith("neo") or (row.peer, row.tasks) not in before:
                continue
            compared += 1
            was = before[row.peer, row.tasks]
            kept = row.ratio / was
            if kept < 1 - ALLOWED_LOSS:
                of = "" if row.tasks is None else f", tasks {row.tasks}"
                sentences.append(
                    f"{found.name} against {row.peer}{of}: {row.ratio:.2f} times as fast, recorded {was:.2f}: lost "
                    f"{1 - kept:.0%}."
                )
    if not compared:
        raise ValueError(
            f"guard: nothing to compare: recorded are {sorted(recorded) or 'none'}, measured {[f.name for f in now]}."
        )
    return sentences
