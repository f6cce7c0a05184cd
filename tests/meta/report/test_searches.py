"""What a report says of a search: its stopped arms, and its Pareto front."""

from __future__ import annotations

import json
from pathlib import Path

from meta.report import page, read
from tests.meta.report.folders import write_run


def write_search(folder: Path, objectives: list[tuple[str, str]], best: dict[str, list[float]]) -> None:
    content = {
        "study": "study",
        "objectives": [{"name": name, "direction": direction} for name, direction in objectives],
        "trials": {name: {"state": "finished", "values": values} for name, values in best.items()},
        "best": list(best),
    }
    (folder / "search.json").write_text(json.dumps(content))


def test_stopped_arm_is_shown_as_such_and_why(tmp_path):
    write_run(tmp_path / "0")
    write_run(tmp_path / "1", test=None)
    (tmp_path / "1" / "stopped.json").write_text(json.dumps({"reason": "stopped at step 40 by a pruner"}))
    found = read(tmp_path)
    assert [(arm.status, arm.reason) for arm in found.arms] == [
        ("finished", ""),
        ("stopped", "stopped at step 40 by a pruner"),
    ]
    html = page(found)
    assert "1 stopped" in html
    assert "stopped at step 40 by a pruner" in html


def test_front_of_several_objectives_is_named(tmp_path):
    for name in ("0", "1", "2"):
        write_run(tmp_path / "s" / name)
    write_search(
        tmp_path / "s",
        [("accuracy", "maximize"), ("seconds", "minimize")],
        {"0": [0.91, 20.0], "2": [0.7, 3.0]},
    )
    html = page(read(tmp_path))
    assert (
        "Pareto front of accuracy (more is better) and seconds (less is better): arm s/0 with 0.91 and 20; "
        "arm s/2 with 0.7 and 3." in html
    )
    assert html.count('<span class="pill ref">Pareto front</span>') == 2


def test_search_for_one_thing_and_a_damaged_file_say_nothing_of_a_front(tmp_path):
    for name in ("one", "damaged"):
        write_run(tmp_path / name / "0")
    write_search(tmp_path / "one", [("accuracy", "maximize")], {"0": [0.91]})
    (tmp_path / "damaged" / "search.json").write_text("{")
    assert "Pareto" not in page(read(tmp_path))
