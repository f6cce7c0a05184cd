"""Configuration files of one's own, by --config-dir and by hydra.searchpath: found alike, and checked alike."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from meta.cli.overrides import ConfigError, check, parse
from meta.cli.searchpath import folders_of
from meta.imports import located
from tests.meta.cli.test_commands import TINY, call

WAYS = {
    "--config-dir": ["--config-dir", "own"],
    "absolute": ["hydra.searchpath=['file://{}/own']"],
    "file": ["hydra.searchpath=[file://own]"],
    "folder": ["hydra.searchpath=[own]"],
    "package": ["hydra.searchpath=[pkg://own]"],
    "both": ["--config-dir", "more", "hydra.searchpath=[file://own]"],
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with an algorithm and an experiment in own/, another algorithm in more/."""
    files = {
        "own/algorithm/heads.yaml": "defaults: [anil, _self_]\nadapt: [head.weight, head.bias]\n",
        "own/experiment/tiny.yaml": (
            "# @package _global_\ndefaults:\n  - override /algorithm: heads\ntrainer: {iterations: 1}\n"
        ),
        "more/algorithm/tails.yaml": "defaults: [maml, _self_]\ninner_steps: 2\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def write(project: Path, name: str, text: str) -> None:
    (project / "own" / name).parent.mkdir(parents=True, exist_ok=True)
    (project / "own" / name).write_text(text)


def refused(project: Path, *arguments: str) -> str:
    """What a command says that writes nothing."""
    before = sorted(project.rglob("*"))
    done = call(project, "train", *arguments)
    assert done.code == 1, done.stdout
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert sorted(project.rglob("*")) == before
    return done.stderr


def given(project: Path, way: str) -> list[str]:
    return [one.format(project) for one in WAYS[way]]


# --- either way ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["--config-dir", "absolute", "package"])
def test_overrides_are_checked(project, way):
    for arguments, sentence in (
        (["algorithm=heds"], "invalid algorithm 'heds'; did you mean heads?"),
        (
            ["algorithm=heads", "algorithm.adpt=x"],
            "unknown key 'algorithm.adpt'; did you mean algorithm.adapt?",
        ),
        (["algorithm=maml,heads", "algorithm.adapt=[head.*]", "-m"], "for algorithm=maml"),
        (["algorithm=heads", "algorithm.adapt=3"], "algorithm.adapt=3 is not a list"),
        (["experiment=tiny", "trainer.iterations=many"], "trainer.iterations=many is not an integer"),
    ):
        assert sentence in refused(project, *given(project, way), *TINY, *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["both", *(pytest.param(one, marks=pytest.mark.exhaustive) for one in WAYS if one != "both")]
)
def test_run_trains_resumes_and_sweeps(project, way):
    tiny = [one for one in TINY if not one.startswith("trainer.iterations")]
    where = given(project, way)
    done = call(project, "train", *where, "experiment=tiny", *tiny, "hydra.run.dir=run")
    assert done.code == 0, done.stderr
    config = yaml.safe_load((project / "run" / ".hydra" / "config.yaml").read_text())
    assert (config["algorithm"]["adapt"], config["trainer"]["iterations"]) == (
        ["head.weight", "head.bias"],
        1,
    )
    done = call(project, "train", *where, "resume=run", "trainer.iterations=2")
    assert done.code == 0, done.stderr
    assert "2 iterations" in done.stdout
    done = call(
        project, "train", "-m", *where, "experiment=tiny", *tiny, "seed=0,1", "hydra.sweep.dir=s", "workers=1"
    )
    assert done.code == 0, done.stderr
    assert len(list((project / "s").glob("*/result.json"))) == 2


def test_folders_of_both_are_looked_into(project):
    folders = [project / "more", project / "own"]
    assert check("train", parse(["algorithm=heads,tails", "seed=1"]), True, folders)
    with pytest.raises(ConfigError, match="invalid algorithm 'tails'"):
        check("train", parse(["algorithm=tails"]), False, folders[1:])


def test_module_beside_a_folder_of_the_searchpath_is_importable(project, tmp_path_factory):
    (project / "beside_own.py").write_text(
        "from meta import MAML\n\nclass Mine(MAML):\n    def __init__(self, model):\n"
        "        super().__init__(model)\n"
    )
    write(project, "algorithm/mine.yaml", "_target_: beside_own.Mine\ninner_lr: 0.4\n")
    cwd = tmp_path_factory.mktemp("elsewhere")
    where = f"hydra.searchpath=['file://{project}/own']"
    done = call(cwd, "train", where, *TINY, "algorithm=mine")
    assert done.code == 1
    assert done.stderr.startswith(
        "error: algorithm.inner_lr is no argument of beside_own.Mine. It takes model."
    )
    assert not list(cwd.iterdir())


def test_folder_in_the_place_of_a_package_is_named(tmp_path, monkeypatch):
    """One folder above a project, whose name the package in it has too."""
    (tmp_path / "lone_nets" / "lone_nets").mkdir(parents=True)
    (tmp_path / "lone_nets" / "lone_nets" / "__init__.py").write_text("Net = dict\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        ValueError, match=r"lone_nets has no 'Net'\. .*lone_nets is a folder, not a package; start"
    ):
        located("lone_nets.Net", "model._target_")
    monkeypatch.delitem(sys.modules, "lone_nets")
    monkeypatch.syspath_prepend(tmp_path / "lone_nets")
    assert located("lone_nets.Net", "model._target_") is dict
    monkeypatch.delitem(sys.modules, "lone_nets")


# --- what is not there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--config-dir", "owm"], "--config-dir=owm: there is no folder"),
        (["hydra.searchpath=[file://owm]"], "hydra.searchpath=[file://owm]: there is no folder"),
        (["hydra.searchpath=[pkg://owm.conf]"], "there is no package 'owm.conf'"),
        (["hydra.searchpath=[pkg://]"], "there is no package ''"),
        (["hydra.searchpath=[http://own]"], "http:// is not known"),
        (["hydra.searchpath=file://own"], "hydra.searchpath=file://own is not a list of places"),
        (["hydra.searchpath=[1]"], "hydra.searchpath=[1] is not a list of places"),
        (["-m", "hydra.searchpath=[own],[more]"], "is not a list of places"),
    ],
)
def test_place_that_is_not_there_is_named(project, arguments, sentence):
    assert sentence in refused(project, *arguments, *TINY)


def test_choice_of_a_folder_that_was_not_given_says_so(project):
    said = refused(project, *TINY, "algorithm=heads")
    assert "own/algorithm/heads.yaml is not looked for without --config-dir own" in said


# --- files that would not do what they say ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            "trainer: {iteration: 5}",
            "sets 'trainer.iteration', which nothing reads; did you mean trainer.iterations?",
        ),
        (
            "evaluation: {taks: 5}",
            "sets 'evaluation.taks', which nothing reads; did you mean evaluation.tasks?",
        ),
        (
            "algorithm: {inner_lrr: 1}",
            "'algorithm.inner_lrr', which nothing reads; did you mean algorithm.inner_lr?",
        ),
        ("sede: 5", "sets 'sede', which nothing reads; did you mean seed?"),
        ("xyzzy: {a: {b: 5}}", "sets 'xyzzy', which nothing reads."),
        ("trainer: {iterations: many}", "trainer.iterations=many is not an integer"),
        ("optimizer: {betas: 0.9}", "optimizer.betas=0.9 is not a list"),
        ("trainer: {iterations: {a: 1}}", "is not an integer"),
    ],
)
def test_experiment_that_sets_what_nothing_reads_is_refused(project, setting, sentence):
    write(project, "experiment/odd.yaml", f"# @package _global_\n{setting}\n")
    assert sentence in refused(project, "--config-dir", "own", *TINY, "experiment=odd")


def test_experiment_may_set_what_a_reference_reads(project):
    write(project, "model/narrow.yaml", "defaults: [conv4, _self_]\nhidden: ${width}\n")
    text = "# @package _global_\ndefaults:\n  - override /model: narrow\nwidth: 4\n"
    write(project, "experiment/narrow.yaml", text)
    assert check("train", parse(["experiment=narrow"]), False, [project / "own"])
    write(project, "experiment/narrow.yaml", f"{text}wdth: 5\n")
    with pytest.raises(ConfigError, match="sets 'wdth', which nothing reads"):
        check("train", parse(["experiment=narrow"]), False, [project / "own"])


def test_setting_that_the_sampler_does_not_have_is_named(project):
    write(project, "task/turned.yaml", "defaults: [glyphs, _self_]\nrotation: true\n")
    done = call(project, "train", "--config-dir", "own", *TINY, "task=turned")
    assert (done.code, len(done.stderr.splitlines())) == (1, 1)
    assert "task.rotation is no argument of the sampler of glyphs; did you mean rotations?" in done.stderr


def test_options_of_a_model_are_open_to_experiments(project):
    text = "# @package _global_\ndefaults:\n  - override /model: torch\nmodel: {module: a.B, options: {width: 5}}\n"
    write(project, "experiment/wide.yaml", text)
    assert check("train", parse(["experiment=wide"]), False, [project / "own"])


@pytest.mark.parametrize("way", ["--config-dir", "file"])
def test_file_that_has_the_name_of_one_of_neos_is_refused_where_it_is_chosen(project, way):
    write(project, "model/conv4.yaml", "_target_: neo.nn.Conv4\nways: 5\nhidden: 3\n")
    write(project, "model/mlp.yaml", "_target_: neo.nn.MLP\n")
    said = refused(project, *given(project, way), *TINY)
    assert "own/model/conv4.yaml would not be read" in said
    assert "model=conv4 of its own" in said
    assert check("train", parse(["model=conv4_maxpool"]), False, [project / "own"])


@pytest.mark.parametrize("way", ["--config-dir", "file"])
def test_main_configuration_of_ones_own_is_refused(project, way):
    write(project, "train.yaml", "seed: 5\n")
    said = refused(project, *given(project, way), *TINY)
    assert "own/train.yaml would not be read, for Neo's train.yaml comes before it" in said


@pytest.mark.parametrize("way", ["--config-dir", "file"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("_target_: [", "broken"),
        ("defaults: [nowhere]\n", "nowhere"),
        ("- 1\n- 2\n", "algorithm=broken is a list, and must be a file of keys and values"),
        (
            "_target_: meta.MAML\ninner_lrr: 1\ninner_steps: 1\n",
            "algorithm.inner_lrr is no argument of meta.MAML; did",
        ),
        (
            "_target_: nowhere.MAML\ninner_steps: 1\n",
            "algorithm._target_=nowhere.MAML: there is no module 'nowhere'",
        ),
        (
            "_target_: meta.MALM\ninner_steps: 1\n",
            "algorithm._target_=meta.MALM: meta has no 'MALM'; did you",
        ),
    ],
)
def test_file_that_does_not_compose_or_build_is_named(project, way, text, sentence):
    write(project, "algorithm/broken.yaml", text)
    assert sentence in refused(project, *given(project, way), *TINY, "algorithm=broken")


def test_folders_are_absolute_and_named_once(project, monkeypatch):
    monkeypatch.chdir(project)
    found = folders_of("own", ["file://own", "more", f"file://{project}/more"])
    assert found == [project / "own", project / "more"]
    assert folders_of(None, None) == []
