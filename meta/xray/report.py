"""What an X-ray says: numbers for a file, tables for people, and one sentence by a stated criterion."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from meta.metrics_file import plain
from meta.xray.measure import Estimated, Interval, Vectors, XRay

__all__ = ["SAFE", "csv_table", "estimator_name", "expect_cosine", "markdown", "report", "verdict"]

SAFE = 0.95  # a cosine: 18 degrees
NAMED = 6  # layers that the sentence names


def verdict(found: XRay, safe: float = SAFE) -> tuple[str, list[str]]:
    """Whether first order will do, as a sentence, and the layers that need the second order.

    A layer needs it where the cosine of its first-order gradient to the exact one is not sure to be `safe`: where the
    lower end of the 95% interval of its mean over tasks is below. First order is safe where no layer needs more and
    the whole gradient passes too.
    Raises: ValueError for a `safe` outside (0, 1], or fewer than two tasks, over which there is no interval.
    """
    expect_cosine(safe)
    if found.tasks < 2:
        raise ValueError("one task has no interval by which to judge; take two tasks or more.")
    whole = found.cosine(found.first_order)
    if math.isnan(whole.mean):
        return "The exact meta-gradient is 0 or not finite on every task: there is nothing to compare.", []
    said = f"{_said(whole)} (95% interval, {whole.tasks} tasks)"
    cosines = {
        name: found.cosine(found.first_order, layer)
        for layer, name in enumerate(found.layers)
        if found.has_gradient(layer)
    }
    needing = sorted(
        (name for name, cosine in cosines.items() if not _passes(cosine, safe)),
        key=lambda name: cosines[name].low,
    )
    if needing:
        named = ", ".join(f"{name} {_said(cosines[name])}" for name in needing[:NAMED])
        more = f" and {len(needing) - NAMED} more" if needing[NAMED:] else ""
        whose = (
            "Every layer needs the second order, most of all"
            if len(needing) == len(cosines) > 1
            else "These layers need the second order:"
        )
        sentence = (
            f"{whose} {named}{more}; their first-order gradient's cosine to the exact one "
            f"may be below {safe:g} (lower end of its 95% interval). As a whole it is {said}.{_enough(found, safe)}"
        )
        return sentence, needing
    if not _passes(whole, safe):
        return (
            f"First order is not safe here: its cosine to the exact meta-gradient is {said}, lower end below {safe:g}, "
            f"though it passes in every layer taken alone: the layers' sizes differ.{_enough(found, safe)}"
        ), []
    least = min(cosines, key=lambda name: cosines[name].low)
    return (
        f"First order is safe here: its cosine to the exact meta-gradient is {said}, and in every layer the lower end "
        f"is {safe:g} or more (least: {least}, {_said(cosines[least])})."
    ), []


def expect_cosine(safe: float) -> None:
    """Raises: ValueError for what can be no criterion of verdict()."""
    if not (isinstance(safe, int | float) and 0 < safe <= 1):
        raise ValueError(f"safe must be a cosine above 0, at most 1, got {safe!r}")


def report(found: XRay, safe: float = SAFE) -> dict[str, Any]:
    """All of it for a JSON file. Norms are root mean squares over tasks; null: there is no such number.

    "whole" and each of "layers": exact_norm, first_order_norm, curvature_norm; first_order_cosine with ci95 and
    curvature_share; "steps", the curvature part of each range of inner steps (first and last, from 0): norm, cosine to
    the exact gradient, share. "estimators": see _estimator().
    """
    sentence, needing = verdict(found, safe)
    safe_here = not needing and _passes(found.cosine(found.first_order), safe)
    if found.dropped:
        sentence += f" Left out: {found.dropped} more tasks, whose exact gradient is not finite."
    return plain(
        {
            "verdict": sentence,
            "safe": safe_here,
            "second_order_layers": needing,
            "criterion": {"first_order_cosine_low": safe, "interval": 0.95},
            "tasks": found.tasks,
            "tasks_not_finite": found.dropped,
            "inner_steps": found.inner_steps,
            "whole": _of_layer(found, None),
            "layers": [
                {"layer": name, "entries": found.entries[i], **_of_layer(found, i)}
                for i, name in enumerate(found.layers)
            ],
            "estimators": [_estimator(found, name, one) for name, one in found.estimates.items()],
        }
    )


def markdown(report: Mapping[str, Any]) -> str:
    """Two tables: layers, then estimators."""
    steps = [_range_name(entry["steps"]) for entry in report["whole"]["steps"]]
    rows = [("all", report["whole"]), *((one["layer"], one) for one in report["layers"])]
    layers = _table(
        ["layer", "exact norm", "first-order norm", "curvature norm", "first-order cosine", "curvature share", *steps],
        [
            [
                name, *(_number(one[key], "{:.3g}") for key in ("exact_norm", "first_order_norm", "curvature_norm")),
                _interval(one["first_order_cosine"], one["first_order_ci95"]),
                _number(one["curvature_share"], "{:+.1%}"),
                *(_number(entry["share"], "{:+.1%}") for entry in one["steps"]),
            ]
            for name, one in rows
        ],
    )  # fmt: skip
    estimators = _table(
        ["estimator", "cosine", "cosine of the means", "norm", "bias", "bias by chance", "variance"],
        [
            [
                estimator_name(one, report["tasks"]), _interval(one["cosine"], one["ci95"]),
                _number(one["cosine_of_means"], "{:.3f}"),
                *(_number(one[key], "{:.3g}") for key in ("norm_ratio", "bias", "bias_by_chance", "variance_ratio")),
            ]
            for one in report["estimators"]
        ],
    )  # fmt: skip
    return f"{layers}\n\n{estimators}\n"


def csv_table(report: Mapping[str, Any]) -> str:
    """A row for each layer ("" for all) and part: exact, first_order, curvature, or some inner steps' part of it."""
    file = io.StringIO()
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["layer", "part", "norm", "cosine", "share"])
    for one in (report["whole"], *report["layers"]):
        name = one.get("layer", "")
        rows.writerow([name, "exact", _cell(one["exact_norm"]), 1, 1])
        for part in ("first_order", "curvature"):
            rows.writerow([name, part, *(_cell(one[f"{part}_{key}"]) for key in ("norm", "cosine", "share"))])
        for entry in one["steps"]:
            cells = [_cell(entry[key]) for key in ("norm", "cosine", "share")]
            rows.writerow([name, _range_name(entry["steps"]), *cells])
    return file.getvalue()


def estimator_name(row: Mapping[str, Any], tasks: int) -> str:
    """Of a row of "estimators", with the tasks that its cosine is over where these are not all."""
    return row["estimator"] + (f" ({row['tasks']} of {tasks} tasks)" if row["tasks"] < tasks else "")


def _range_name(ends: Sequence[int]) -> str:
    first, last = (end + 1 for end in ends)
    return f"step {first}" if first == last else f"steps {first}-{last}"


def _of_layer(found: XRay, layer: int | None) -> dict[str, Any]:
    def measured(part: Vectors) -> dict[str, Any]:
        cosine = found.cosine(part, layer)
        return {
            "norm": part.norm(layer), "cosine": cosine.mean, "ci95": cosine.ci95, "share": found.share(part, layer)
        }  # fmt: skip

    first, curvature = measured(found.parts[0]), measured(found.curvature)
    return {
        "exact_norm": found.exact.norm(layer),
        **{f"first_order_{key}": value for key, value in first.items()},
        **{f"curvature_{key}": value for key, value in curvature.items()},
        "steps": [
            {"steps": [steps[0], steps[-1]], **measured(part)}
            for steps, part in zip(found.steps, found.parts[1:], strict=True)
        ],
    }


def _estimator(found: XRay, name: str, one: Estimated) -> dict[str, Any]:
    """cosine: mean over `tasks` on which the estimate is finite, with ci95; cosine_of_means: between the means over
    tasks, which the outer step goes by; norm_ratio: of root mean squares; bias: ‖mean of (estimate − exact)‖ / ‖mean of
    exact‖, of which bias_by_chance is to be expected from the scatter over so few tasks alone; variance: over tasks,
    summed over entries, and variance_ratio to that of the exact gradients.
    """
    exact = found.exact
    cosine = found.cosine(one)
    mean, own = float(exact.mean_squared.sum()), float(one.mean_squared.sum())
    scale = math.sqrt(mean)
    spread = exact.variance()
    return {
        "estimator": name,
        "tasks": cosine.tasks,
        "cosine": cosine.mean,
        "ci95": cosine.ci95,
        "cosine_of_means": _ratio(float(one.mean_dot.sum()), math.sqrt(mean * own)),
        "norm_ratio": _ratio(one.norm(), exact.norm()),
        "bias": _ratio(math.sqrt(float(one.mean_error.sum())), scale),
        "bias_by_chance": _ratio(math.sqrt(one.error_variance() / found.tasks), scale),
        "variance": one.variance(),
        "variance_ratio": _ratio(one.variance(), spread),
    }


def _enough(found: XRay, safe: float) -> str:
    """The fewest last steps whose truncation passes where first order does not, as a sentence; nothing if none does."""
    for name, one in found.estimates.items():
        if name.startswith("truncated") and all(
            _passes(found.cosine(one, layer), safe)
            for layer in (None, *range(len(found.layers)))
            if layer is None or found.has_gradient(layer)
        ):
            steps = name.split()[1]
            return f" meta_gradient=truncated truncated_steps={steps} passes, of {found.inner_steps} inner steps."
    return ""


def _passes(cosine: Interval, safe: float) -> bool:
    return cosine.low >= safe  # False for NaN: what is not known does not pass


def _said(cosine: Interval) -> str:
    return f"{cosine.mean:.3f} ± {cosine.ci95:.3f}"


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.nan


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _interval(mean: float | None, ci95: float | None) -> str:
    return "" if mean is None else f"{mean:.3f} ± {_number(ci95, '{:.3f}')}"


def _cell(value: float | None) -> Any:
    return "" if value is None else value


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first = cells[0].ljust(widths[0])
        return (
            "| "
            + " | ".join([first, *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))])
            + " |"
        )

    rule = "|" + "|".join(["-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:])]) + "|"
    return "\n".join([line(header), rule, *map(line, rows)])
