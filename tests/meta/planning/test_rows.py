"""From a few measured points to other inner steps, and from a budget to a choice; on numbers made up here."""

from __future__ import annotations

import pytest
import torch

from meta.planning import Plan, Row, Segments, choose
from meta.sizes import format_size, parse_size

MB = 10**6


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GB", 2 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("300mb", 300 * MB),
        ("64kB", 64_000),
        (4096, 4096),
        ("1e3 B", 1000),
    ],
)
def test_amounts_of_memory_as_people_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["2 apples", "2Gb/s", "GB", "", "-1GB", "nan", True, "1.2.3MB"])
def test_what_is_no_amount_of_memory_is_refused_with_the_units(text):
    with pytest.raises(ValueError, match=r"trainer.memory=.* is no amount of memory.*kB, MB, GB.*GiB"):
        parse_size(text, "trainer.memory")


def test_no_memory_at_all_is_refused():
    with pytest.raises(ValueError, match="memory=0GB must be above 0"):
        parse_size("0GB")


def test_sizes_are_told_in_megabytes():
    assert [format_size(one) for one in (2.25e9, 12e6, 1.25e6, 0)] == [
        "2,250 MB",
        "12 MB",
        "1.2 MB",
        "0.0 MB",
    ]


def line(name: str, start: float, step: float, seconds: float = 1.0, **settings: int) -> Row:
    return Row(name, settings, {n: (start + n * step, seconds * n) for n in (1, 2, 3)})


def test_beyond_what_was_measured_a_row_goes_on_as_its_last_two_points():
    row = Row("reverse", points={1: (10.0, 1.0), 2: (11.0, 1.5), 3: (13.0, 2.0)})
    assert [row.bytes(n) for n in (1, 2, 3, 5, 0)] == [10.0, 11.0, 13.0, 17.0, 7.0]
    assert [row.seconds(n) for n in (1, 2, 3, 5)] == [1.0, 1.5, 2.0, 3.0]


def test_memory_of_truncated_steps_grows_no_further():
    row = Row("truncated", {"truncated_steps": 4}, {n: (n * 1.0, 1.0) for n in (1, 2, 3)}, limit=5)
    assert [row.bytes(n) for n in (3, 5, 6, 100)] == [3.0, 5.0, 5.0, 5.0]


def test_segments_keep_parameters_of_each_segment_and_at_most_of_one_segments_steps():
    mixed = line("mixed", 100, 2)
    segments = Segments("mixed", {}, {6: (104.0, 7.0)}, mixed=mixed)
    assert segments.settings_at(9) == {"meta_gradient": "mixed", "mixed_segment": 3}
    assert segments.bytes(9) == 104 + 2  # three segments in place of two, of as many steps
    assert segments.bytes(100) == 104 + 8 * 2 + (10 - 3) * 2
    assert (
        segments.seconds(9) == 9 + 6 / 3
    )  # a third of a second for the second pass of a step, but of the last three
    fixed = Segments("mixed", {}, {6: (104.0, 7.0)}, mixed=mixed, each=5)
    assert fixed.settings_at(100)["mixed_segment"] == 5
    assert fixed.bytes(100) == 104 + 18 * 2 + 2 * 2
    assert (fixed.bytes(3), fixed.seconds(4)) == (104 - 2, 4)  # one segment, which is kept


def planned(*rows: Row, steps: int = 10, workers: int = 2, **changed: object) -> Plan:
    """A process of 300 MB with two tasks at a time, of which the pictures take 50 MB; 3 inner steps were tried."""
    at_once = workers * rows[0].bytes(3)
    measured = {
        "process": 200 * MB,
        "data": 50 * MB,
        "parameters": MB,
        "optimizer": 2 * MB,
        "carried": 0,
        "task": MB,
        "peaks": {
            "begun": 240 * MB,
            "trained": 250 * MB + at_once,
            "tested": 250 * MB + at_once,
            "end": 300 * MB + at_once,
        },
        "untested": 0,
        "tried": 8,
        "meta_batch": 8,
        "seconds": 8 * rows[0].seconds(3) / workers,
        "workers": workers,
        "batched": False,
    }
    return Plan(rows, steps, 3, measured | changed, torch.device("cpu"))


def rows() -> tuple[Row, ...]:
    mixed = line("mixed", 60 * MB, 2 * MB, 1.4)
    segments = Segments("mixed", {}, {6: (64 * MB, 9.2)}, mixed=mixed)
    return line("reverse", 60 * MB, 20 * MB), mixed, segments, line("first_order", 10 * MB, 0, 0.3)


def test_workers_multiply_what_a_task_takes_and_nothing_else():
    found = planned(*rows())
    assert found.peak(steps=10) == 300 * MB + 2 * (60 + 200) * MB
    assert found.peak(steps=10, workers=1) == 300 * MB + (60 + 200) * MB
    assert found.peak(found.rows[1], 10) == 300 * MB + 2 * 80 * MB
    assert found.seconds(steps=10) == 8 * 10 / 2
    assert found.seconds(steps=10, workers=1) == 8 * 10


def test_parts_add_up_to_the_peak():
    found = planned(*rows())
    assert sum(found.parts().values()) == pytest.approx(found.peak())


def test_fewer_tasks_than_a_meta_batch_has_are_made_up_for():
    assert planned(*rows(), tried=2).peak() == planned(*rows()).peak() + 2 * MB + 6 * MB


def test_a_test_can_be_what_takes_most():
    found = planned(*rows())
    assert planned(*rows(), untested=900 * MB).peak() == 300 * MB + 2 * 10 * MB + 900 * MB
    peaks = {**found.measured["peaks"], "tested": 2000 * MB, "end": 2060 * MB}
    assert planned(*rows(), peaks=peaks).peak(found.rows[1], 1) == 2060 * MB


def test_no_estimator_takes_less_than_what_came_before_the_first_meta_step():
    found = planned(*rows())
    assert found.meta_step(found.rows[3], 1) == 250 * MB + 2 * 10 * MB
    peaks = {**found.measured["peaks"], "begun": 400 * MB}
    assert planned(*rows(), peaks=peaks).meta_step(found.rows[3], 1) == 400 * MB


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (1000, {"algorithm.meta_gradient": "reverse", "workers": 2}),
        (
            900,
            {"algorithm.meta_gradient": "mixed", "workers": 2},
        ),  # 14 s a task, two at a time: before 10 s, one
        (500, {"algorithm.meta_gradient": "mixed", "mixed_segment": 3, "workers": 2}),
        (420, {"algorithm.meta_gradient": "mixed", "workers": 1}),
    ],
)
def test_the_simplest_that_fits_is_chosen_and_more_tasks_at_a_time_go_before_a_faster_task(budget, chosen):
    choice = choose(planned(*rows()), budget * MB)
    wanted = {
        key if "." in key or key == "workers" else f"algorithm.{key}": value for key, value in chosen.items()
    }
    assert choice.values == wanted
    assert choice.peak * 1.1 <= budget * MB


def test_an_approximate_estimator_is_kept():
    first_order, reverse = line("first_order", 100 * MB, 0), line("reverse", 1 * MB, 0)
    choice = choose(planned(first_order, reverse), 450 * MB)
    assert choice.values == {"algorithm.meta_gradient": "first_order", "workers": 1}


def test_a_budget_that_nothing_keeps_is_refused_with_what_is_needed():
    found = planned(*rows())
    least = 300 + 62 + 4 + 2  # of mixed in segments, one task at a time
    with pytest.raises(
        ValueError, match=r"trainer.memory=100 MB is not enough: the least is with mixed"
    ) as error:
        choose(found, 100 * MB, "trainer.memory")
    needed = f"must be {format_size(1.1 * min(368, least) * MB + MB)} or more"
    assert needed in str(error.value)
    assert "process 200 MB, data 50 MB, parameters 1.0 MB" in str(error.value)


def test_what_names_no_estimator_is_left_with_its_own():
    own = Row("ProtoNet", points={0: (100.0 * MB, 1.0)}, choosable=False)
    found = Plan([own], None, 0, planned(own).measured, torch.device("cpu"))
    assert choose(found, 10**9).values == {"workers": 2}
    assert choose(Plan([own], None, 0, {**found.measured, "batched": True}, found.device), 10**9).values == {}
