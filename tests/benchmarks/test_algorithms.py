"""The comparison of algorithms: its runs are those it prints, its tables say what they found, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from benchmarks import algorithms
from meta import task_results
from meta.cli.configs import composed
from meta.cli.overrides import ConfigError, check, groups, parse
from meta.paired import difference

ROOT = Path(__file__).parents[2]
TINY = [
    "task.dataset.alphabets=4",
    "task.dataset.characters=6",
    "task.ways=3",
    "task.queries=2",
    "model.hidden=4",
    "trainer.meta_batch=2",
    "trainer.iterations=2",
    "trainer.val_tasks=2",
    "evaluation.tasks=4",
]
PAGE = """before
<!-- scripts/compare.py writes toy from here -->
old
<!-- toy to here -->
after ![](page-toy-maml-tasks.png)
"""


def config(folder: Path, **changes) -> DictConfig:
    settings = {
        "tables": {"toy": {"common": TINY, "runs": {"maml": ["algorithm=maml"]}}},
        "folder": str(folder / "runs"),
        "write": str(folder / "page.md"),
        "filled": {},
        "only": [],
        "data_dir": "data",
        "device": "cpu",
    }
    return OmegaConf.create({**settings, **changes})


@pytest.mark.slow
def test_comparison_trains_writes_its_table_and_does_not_train_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    algorithms.job(config(tmp_path))
    result = json.loads((tmp_path / "runs" / "toy" / "maml" / "result.json").read_text())
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after ![](page-toy-maml-tasks.png)\n")
    assert "old" not in text
    accuracy, ci95 = 100 * result["test/accuracy"], 100 * result["test/ci95"]
    assert f"| maml | 2 | 2 | 1 / 1 | 0.0 | {accuracy:.2f}% ± {ci95:.2f} | 33% |" in text
    assert f"python scripts/train.py {' '.join(TINY)} algorithm=maml\n" in text
    assert [path.name for path in tmp_path.glob("*.png")] == ["page-toy-maml-tasks.png"]

    monkeypatch.setattr(
        algorithms.subprocess, "run", lambda *_, **__: pytest.fail("a finished run was done again")
    )
    algorithms.job(config(tmp_path))
    assert page.read_text() == text
    assert text.partition("-->\n\n")[2].partition("\n\n<!--")[0] in capsys.readouterr().out


def test_table_waits_until_all_its_runs_have_finished(tmp_path):
    (tmp_path / "page.md").write_text(PAGE)
    unfinished = {"toy": {"common": [], "runs": {"maml": [], "anil": []}}}
    done = tmp_path / "runs" / "toy" / "maml"
    done.mkdir(parents=True)
    (done / "result.json").write_text("{}")
    algorithms.job(config(tmp_path, tables=unfinished, only=["maml"]))
    assert (tmp_path / "page.md").read_text() == PAGE


def test_page_without_a_place_for_the_table_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    with pytest.raises(ValueError, match=r"has no place for the table toy; add the two lines"):
        algorithms.insert(page, "toy", "text")
    assert page.read_text() == "nothing here\n"


def test_unknown_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown runs only=\['mammal'\]; choose some of maml"):
        algorithms.job(config(tmp_path, only=["mammal"]))


# Of tasks that are not of few labels: docs/beyond-few-shot.md.
BEYOND_FEW_SHOT = {"distillation", "hyperparameters", "learned_loss", "learned_optimizer", "reweighting"}


def test_every_run_of_the_comparison_is_a_command_that_train_accepts():
    tables = composed("compare").tables
    called = [[*table.common, *own] for table in tables.values() for own in table.runs.values()]
    for overrides in called:
        check("train", parse(overrides), sweeping=False)
    for title in ("omniglot_5w1s", "omniglot_20w1s"):
        assert {*tables[title].runs} == {*groups()["algorithm"]} - BEYOND_FEW_SHOT
        assert all(f"algorithm={name}" in own for name, own in tables[title].runs.items())


def test_page_has_a_place_for_every_table():
    page = (ROOT / "docs" / "algorithms.md").read_text()
    settings = composed("compare")
    filled = {title for one in settings.filled.values() for title in one.tables}
    for title in [*settings.filled, *(title for title in settings.tables if title not in filled)]:
        assert f"<!-- scripts/compare.py writes {title} from here -->" in page
        assert f"<!-- {title} to here -->" in page
    rows = page.partition("writes algorithms from here")[2].partition("<!-- algorithms to here")[0]
    assert {line.split("`")[1] for line in rows.splitlines() if line.startswith("| `")} >= {
        *groups()["algorithm"]
    }


KEPT = """<!-- scripts/compare.py writes all from here -->

| name | adapts | learns | |
|---|---|---|---|
| `maml` | every parameter | an initialisation | paper |
| `fomaml` | the same | the same | section |
| `boil` | the body | the same | not run |

<!-- all to here -->
"""


@pytest.mark.slow
def test_kept_table_is_filled_with_scores_and_paired_differences(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    page = tmp_path / "page.md"
    page.write_text(KEPT)
    runs = {"maml": ["algorithm=maml"], "fomaml": ["algorithm=fomaml", "trainer.iterations=4"]}
    given = config(
        tmp_path,
        tables={"one": {"common": TINY, "runs": runs}},
        filled={"all": {"tables": ["one"], "against": "maml"}},
    )
    algorithms.job(given)
    text = page.read_text()
    folders = [tmp_path / "runs" / "one" / name for name in ("maml", "fomaml")]
    scores = [json.loads((folder / "result.json").read_text())["test/accuracy"] for folder in folders]
    assert "| name | adapts | learns |  | cost | 3-way 1-shot | − maml |\n" in text
    assert f"| `maml` | every parameter | an initialisation | paper | 1.0 | {100 * scores[0]:.1f}% ±" in text
    assert f"| `fomaml` | the same | the same | section | 0.5 | {100 * scores[1]:.1f}% ±" in text
    found = difference(*(task_results.load(folder / "test.safetensors") for folder in folders))
    assert found.mean == pytest.approx(scores[1] - scores[0])
    assert f"| {100 * found.mean:+.2f} ± {100 * found.ci95:.2f} |".replace("-", "−") in text
    assert "| `boil` | the body | the same | not run |  |  |  |\n" in text
    assert f"python scripts/train.py {' '.join(TINY)} algorithm=maml\n" in text
    algorithms.job(OmegaConf.merge(given, {"only": ["one/maml"]}))
    assert page.read_text() == text

    page.write_text(KEPT.replace("`fomaml`", "`other`"))
    with pytest.raises(ValueError, match="the table all has no row for fomaml"):
        algorithms.job(given)
