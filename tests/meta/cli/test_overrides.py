"""Overrides that would change nothing, or not what they say; lists; arms that lack a key; configurations elsewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from meta.cli.overrides import ConfigError, check, parse
from tests.meta.cli.test_commands import ROOT, TINY, call


def checked(*overrides: str, sweeping: bool = False, name: str = "train") -> list[str]:
    return check(name, parse(overrides), sweeping)


# --- lists -----------------------------------------------------------------------------------------------------------

LISTS = [
    "algorithm.adapt=[head.*,norm0.bias]",
    "algorithm.adapt=['head.*','norm?.bias']",
    'algorithm.adapt=["head.*", "norm0.bias"]',
    "algorithm.adapt=[head.*]",
    "algorithm.adapt=head.*",
    "algorithm.adapt='[hn]ead.*'",
    "optimizer.betas=[0,0.999]",
    "task.dataset.seed=3",
    "task.problem={inner_reduction: shots}",
    "task.picture=null",
    "algorithm.inner_lr=null",  # which ANIL passes on to MAML, where it may be None
    "algorithm.inner_optimizer={_target_: neo.optim.adam, lr: 0.01}",
    "algorithm.inner_learned=[lr,weight_decay]",
]


@pytest.mark.parametrize("override", LISTS)
def test_list_is_taken_where_the_configuration_promises_one(override):
    assert checked("algorithm=anil", override) == ["algorithm=anil", override]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("algorithm.adapt=[]", "algorithm.adapt=[] is not a list of one or more"),
        ("algorithm.adapt=[head.*,true]", "algorithm.adapt=[head.*,true]: in it, true is not a string"),
        (
            "algorithm.adapt=null",
            "algorithm.adapt=null is not a string; expected one like algorithm.adapt=head.*",
        ),
        ("algorithm.adapt={a: b}", "is not a string"),
        ("algorithm.inner_steps=null", "algorithm.inner_steps=null is not an integer"),
        ("task.ways=[5]", "task.ways=[5] is not an integer; expected one like task.ways=5"),
        ("data_dir=[a,b]", "data_dir=[a,b] is not a string"),
        (
            "optimizer.betas=0.9",
            "optimizer.betas=0.9 is not a list; expected one like optimizer.betas=[0.9,0.999]",
        ),
        ("optimizer.betas=[0.9,high]", "in it, high is not a number"),
        ("optimizer.betas=null", "optimizer.betas=null is not a list"),
        ("task.problem=5", "task.problem=5 is not a mapping"),
    ],
)
def test_value_of_another_type_is_refused(override, sentence):
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        checked("algorithm=anil", override)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [("works=w1", "works=w1 is not a list; expected one like works=[w1,w2"), ("works=[w1,2]", "")],
)
def test_word_for_a_list_of_words_is_refused(override, sentence):
    """list("w1") is two letters."""
    if sentence:
        with pytest.raises(ConfigError, match=re.escape(sentence)):
            checked(override, name="bench")
    else:
        assert checked(override, name="bench") == [override]  # words may look like numbers


def patterns(arm: Path) -> object:
    return yaml.safe_load((arm / ".hydra" / "config.yaml").read_text())["algorithm"]["adapt"]


@pytest.mark.slow
def test_lists_are_swept_over_by_the_command(tmp_path):
    arms = "algorithm.adapt=head.*,[head.*,'norm?.bias'],[\"head.*\", conv3.weight]"
    done = call(tmp_path, "train", "-m", *TINY, "algorithm=anil", arms, "hydra.sweep.dir=s")
    assert done.code == 0, done.stderr
    assert [patterns(tmp_path / "s" / str(number)) for number in range(3)] == [
        "head.*",
        ["head.*", "norm?.bias"],
        ["head.*", "conv3.weight"],
    ]


def test_pattern_that_matches_nothing_beside_one_that_does_ends_the_command(tmp_path):
    done = call(tmp_path, "train", *TINY, "algorithm=anil", "algorithm.adapt=[head.*,nrom*.bias]")
    assert done.code == 1
    assert "'nrom*.bias' matches no parameter (nearest: norm" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("place", [0, 1, 2])
def test_flags_may_stand_anywhere(tmp_path, place):
    arguments = ["seed=0,1", "trainer.iterations=0"]
    arguments.insert(place, "-m")
    done = call(tmp_path, "train", *TINY, *arguments)
    assert "trainer.iterations=0" in done.stdout + done.stderr
    assert "unrecognized" not in done.stderr


# --- keys that only some arms of a sweep have ------------------------------------------------------------------------


@pytest.mark.parametrize("choices", ["maml,anil", "anil,maml", "choice(maml,anil)", "glob(mam*,an*)"])
@pytest.mark.parametrize("override", ["algorithm.adapt=head.*", "++algorithm.adapt=head.*"])
def test_key_that_some_arms_lack_is_refused_whatever_their_order(choices, override):
    with pytest.raises(
        ConfigError, match=r"unknown key 'algorithm\.adapt' for algorithm=maml, where it would do nothing"
    ):
        checked(f"algorithm={choices}".replace("glob(mam*,an*)", "glob([mam*,an*])"), override, sweeping=True)


@pytest.mark.slow
def test_commands_that_are_recommended_are_accepted(tmp_path):
    """Each message used to recommend what the other refused."""
    swept = ["algorithm=maml,anil", "algorithm.adapt=head.*,[head.bias,norm0.bias]"]
    done = call(tmp_path, "train", "-m", *TINY, *swept, "hydra.sweep.dir=s")
    assert done.code == 1
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    _, without, having = re.split(r"-m ", done.stderr.partition(". One page")[0])
    assert "algorithm=maml" in without
    assert "adapt" not in without
    for number, command in enumerate((without.removesuffix(" and "), having), 1):
        arguments = shlex.split(command)
        done = call(tmp_path, "train", "-m", *arguments)
        assert done.code == 0, done.stderr
        assert len(list((tmp_path / "s" / str(number)).glob("*/result.json"))) == number
    done = call(tmp_path, "report", "s")
    assert "3 arms" in done.stdout


def test_page_about_sweeps_shows_what_is_said_of_such_a_key(tmp_path):
    page = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    ((command, said),) = re.findall(r"^\$ neo-train (-m .*)\n(error: .*\n)", page, re.MULTILINE)
    done = call(tmp_path, "train", *shlex.split(command))
    assert (done.code, done.stderr) == (1, said)
    assert not list(tmp_path.iterdir())


def test_recommended_commands_have_the_folder_of_configurations(own):
    swept = ["-m", "algorithm=maml,heads", "algorithm.adapt=head.*", "seed=1"]
    done = call(own.parent, "train", *swept, "--config-dir", "own")
    assert (
        "-m --config-dir=own algorithm=heads 'algorithm.adapt=head.*' seed=1 hydra.sweep.dir=" in done.stderr
    )


def test_arms_that_have_the_same_keys_are_swept_over_together():
    with pytest.raises(ConfigError) as caught:
        checked(
            "algorithm=maml,anil,reptile,fomaml",
            "algorithm.adapt=head.*",
            "algorithm.first_order=true",
            "hydra.sweep.dir=x",
            sweeping=True,
        )
    said = str(caught.value)
    for command in (
        "-m algorithm=maml,fomaml algorithm.first_order=true hydra.sweep.dir=x/1",
        "-m algorithm=anil 'algorithm.adapt=head.*' algorithm.first_order=true hydra.sweep.dir=x/2",
        "-m algorithm=reptile hydra.sweep.dir=x/3",
    ):
        assert command in said


def test_key_that_a_swept_task_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"unknown key 'task\.ways' for task=sinusoid"):
        checked("task=glyphs,sinusoid", "task.ways=3", sweeping=True)
    with pytest.raises(ConfigError, match=r"unknown key 'model\.hidden' for task=sinusoid"):
        checked("task=sinusoid,glyphs", "model.hidden=3", sweeping=True)


def test_key_that_all_arms_have_is_checked_in_each():
    assert checked(
        "algorithm=maml,reptile", "algorithm.inner_steps=2,3", "algorithm.inner_lr=1", sweeping=True
    )
    with pytest.raises(ConfigError, match=r"algorithm\.inner_lr=high is not a number"):
        checked("algorithm=maml,reptile", "algorithm.inner_lr=1,high", sweeping=True)


@pytest.mark.slow
def test_many_arms_are_looked_at_one_group_at_a_time():
    groups = [
        "algorithm=glob(*,exclude=[proto*,matchingnet,metaoptnet,r2d2,relationnet,reweighting])",
        "model=conv4,conv4_maxpool",
        "optimizer=sgd,adam",
        "device=cpu,auto",
    ]
    assert checked(*groups, "algorithm.inner_lr=1,2", sweeping=True)
    with pytest.raises(ConfigError, match=r"unknown key 'optimizer\.betas' for optimizer=sgd"):
        checked(*groups, "optimizer.betas=[0.9,0.99]", sweeping=True)


def test_key_of_another_choice_is_told_with_the_choice():
    with pytest.raises(
        ConfigError, match=r"unknown key 'algorithm\.adapt' for algorithm=maml; algorithm=anil and .* have it"
    ):
        checked("algorithm=maml", "algorithm.adapt=head.*")
    with pytest.raises(
        ConfigError, match=r"unknown key 'algorithm\.adapt' for algorithm=\(its default\); algorithm=anil"
    ):
        checked("algorithm.adapt=head.*")


@pytest.mark.slow
def test_unknown_key_is_told_where_another_choice_of_its_group_does_not_fit():
    """task=sinusoid has no ways, which model=conv4 asks for."""
    with pytest.raises(
        ConfigError, match=r"unknown key 'task\.dataset\.sise'; did you mean task\.dataset\.seed"
    ):
        checked("model=conv4", "task.dataset.sise=3")


# --- configuration files elsewhere ----------------------------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder of a user's own with an algorithm and an experiment."""
    (tmp_path / "own" / "algorithm").mkdir(parents=True)
    (tmp_path / "own" / "experiment").mkdir()
    (tmp_path / "own" / "algorithm" / "heads.yaml").write_text(
        "defaults: [anil, _self_]\nadapt: [head.weight, head.bias]\n"
    )
    (tmp_path / "own" / "experiment" / "tiny.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /algorithm: heads\ntrainer: {iterations: 1}\n"
    )
    return tmp_path / "own"


def test_overrides_are_checked_with_configuration_files_of_ones_own(own):
    """They used to go unchecked, and a sweep unclaimed, as soon as --config-dir was given."""
    cwd = own.parent
    for arguments, sentence in (
        (["algorithm=heds"], "invalid algorithm 'heds'; did you mean heads?"),
        (["algorithm=heads", "algorithm.adpt=x"], "unknown key 'algorithm.adpt'"),
        (["algorithm=maml,heads", "algorithm.adapt=[head.*]", "-m"], "for algorithm=maml"),
        (["algorithm=heads", "algorithm.adapt=3"], "algorithm.adapt=3 is not a list"),
    ):
        done = call(cwd, "train", "--config-dir", "own", *TINY, *arguments)
        assert done.code == 1
        assert sentence in done.stderr, done.stderr
    assert [path.name for path in cwd.iterdir()] == ["own"]


@pytest.mark.slow
def test_run_with_configuration_files_of_ones_own_trains_resumes_and_is_evaluated(own):
    tiny = [one for one in TINY if not one.startswith("trainer.iterations")]
    cwd, elsewhere = own.parent, ["--config-dir", "own"]
    done = call(cwd, "train", *elsewhere, "experiment=tiny", *tiny, "hydra.run.dir=run")
    assert done.code == 0, done.stderr
    assert patterns(cwd / "run") == ["head.weight", "head.bias"]
    done = call(cwd, "train", *elsewhere, "resume=run", "trainer.iterations=2")
    assert done.code == 0, done.stderr
    assert "2 iterations" in done.stdout
    done = call(
        cwd, "train", *elsewhere, *tiny, "algorithm=heads", "algorithm.adapt=head.*", "trainer.iterations=1"
    )
    assert done.code == 0, done.stderr
    done = call(cwd, "evaluate", "run_dir=run", "tasks=2")
    assert done.code == 0, done.stderr


@pytest.mark.slow
def test_sweep_with_configuration_files_of_ones_own_goes_on(own):
    cwd, command = (
        own.parent,
        ["-m", "--config-dir", "own", "algorithm=heads", *TINY, "hydra.sweep.dir=s"],
    )
    for _ in range(2):
        done = call(cwd, "train", *command)
        assert done.code == 0, done.stderr
    done = call(cwd, "train", *command, "seed=1")
    assert "holds the sweep of another command" in done.stderr


# --- options of other commands that would do nothing ------------------------------------------------------------------


def test_peer_without_a_part_in_the_works_is_refused(tmp_path):
    done = call(
        tmp_path, "bench", "works=[w5]", "peers=[learn2learn]", "quick=true", "device=cpu", "write=none"
    )
    assert done.code == 1
    assert "learn2learn takes part in none of works=['w5']" in done.stderr


def test_name_of_an_evaluation_beside_files_of_results_is_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("")
    done = call(tmp_path, "paired", "a", "b", "--name", "test")
    assert done.code == 1
    assert "--name=test chooses a file in the folder of a run, and a is a file" in done.stderr
