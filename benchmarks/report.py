"""Tables of what was found, in Markdown, between two markers of a page that is otherwise written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.record import Found, Row

__all__ = ["BEGIN", "END", "insert", "render", "table"]

BEGIN, END = "<!-- scripts/bench.py writes from here -->", "<!-- to here -->"
PAGE = f"# Benchmarks\n\n{BEGIN}\n{END}\n"
DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def insert(page: Path, generated: str) -> None:
    """Put the generated part between the page's markers, and leave the rest as it is; make the page if there is none.

    Raises: ValueError where the page lacks a marker.
    """
    text = page.read_text(encoding="utf-8") if page.exists() else PAGE
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: has no place for the tables; add the two lines {BEGIN!r} and {END!r}.")
    page.write_text(f"{before}{BEGIN}\n\n{generated.strip()}\n\n{END}{after}", encoding="utf-8")


def render(record: Mapping[str, Mapping[str, Found]], plots: Mapping[str, str]) -> str:
    """Every table. plots: kind of device → picture, relative to the page."""
    parts = []
    for device, works in record.items():
        parts.append(f"## {DEVICES.get(device, device)}")
        if device in plots:
            parts.append(f"![Time of each peer over Neo's, and memory against inner steps]({plots[device]})")
        parts += [table(found) for found in works.values()]
    return "\n\n".join(parts)


def table(found: Found) -> str:
    """Heading, table and notes of one work."""
    lines = [f"### {found.name}: {found.title}", "", *(_unrolled(found) if found.unrolled else _rows(found))]
    facts = [f"{found.machine}; {found.rounds} rounds."]
    if found.rates:
        convolution, matmul = found.rates["convolution"] / 1e9, found.rates["matmul"] / 1e9
        facts.append(
            f"Measured in the same run: convolution {convolution:.0f} GFLOP/s, matmul {matmul:.0f} GFLOP/s."
        )
    if found.flops:
        facts.append(f"Arithmetic of a {found.unit}: {found.flops / 1e9:.3g} GFLOP.")
    return "\n".join([*lines, "", " ".join([*facts, *found.notes])])


def _rows(found: Found) -> Iterable[str]:
    rates = bool(found.flops and found.rates)
    speed = ["tasks a second"] if found.unit == "task" else []
    article = "an" if found.unit[0] in "aeiou" else "a"
    sizes = list(dict.fromkeys(row.tasks for row in found.rows))
    head = [
        "",
        *["tasks"] * (sizes != [None]),
        f"{article} {found.unit}",
        *speed,
        "× Neo",
        "quartiles",
        "peak memory",
        *["of conv rate"] * rates,
    ]
    if any(row.error is not None for row in found.rows):
        head.append("float32 error")
    head.append("setting")
    yield from _markdown(head, [_cells(found, row, rates) for row in found.rows])
    for tasks in sizes:
        peers = [row for row in found.rows if not row.peer.startswith("neo") and row.tasks == tasks]
        if peers:
            nearest = min(peers, key=lambda row: row.ratio)
            of = "" if tasks is None else f"{tasks} {'task' if tasks == 1 else 'tasks'}: "
            yield ""
            yield f"**{of}Neo is {nearest.ratio:.2f} times as fast as the fastest peer, {nearest.peer}.**"


def _cells(found: Found, row: Row, rates: bool) -> list[str]:
    low, high = row.quartiles
    speed = [f"{1 / row.seconds:,.0f}"] if found.unit == "task" else []
    fraction = (
        [f"{found.flops / row.seconds / found.rates['convolution']:.0%}"] if rates and found.flops else []
    )
    memory = f"{row.peak_bytes / 1e6:,.0f} MB"
    spread = f"{low:.2f} – {high:.2f}"
    error = [] if row.error is None else [f"{row.error:.0e}"]
    tasks = [] if row.tasks is None else [str(row.tasks)]
    cells = [row.peer, *tasks, _duration(row.seconds), *speed, f"{row.ratio:.2f}", spread, memory]
    return [*cells, *fraction, *error, row.setting]


def _unrolled(found: Found) -> Iterable[str]:
    head = ["inner steps", "time", "with checkpoint", "peak memory", "with checkpoint"]
    yield from _markdown(
        head,
        [
            [
                f"{row['inner_steps']:.0f}",
                _duration(row["plain_seconds"]),
                _duration(row["checkpoint_seconds"]),
                f"{row['plain_peak_bytes'] / 1e6:,.0f} MB",
                f"{row['checkpoint_peak_bytes'] / 1e6:,.0f} MB",
            ]
            for row in found.unrolled
        ],
    )


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'|'.join(['---', *['---:'] * (len(head) - 2), '---' if head[-1] == 'setting' else '---:'])}|"
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def _duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        rounded = f"{seconds / scale:.3g}"
        if float(rounded) >= 1:  # 0.9996 s is 1 s, and not 1e+03 ms
            return f"{rounded} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
