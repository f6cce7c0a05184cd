"""--help: every key with what its configuration says of it, and the choices that were typed beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from meta.cli import sweeps
from meta.cli.comments import ConfigFile, chain
from meta.cli.configs import CONF, composed
from meta.cli.help import help_text
from meta.cli.overrides import groups, leaves
from tests.meta.cli.test_commands import call

COMMANDS = sorted(path.stem for path in CONF.glob("*.yaml"))
CHOICES = groups()


def told(name: str, *overrides: str) -> str:
    """The help, each row on one line, whatever the width."""
    text = help_text(name, overrides, [], "command", None)
    return re.sub(r"\n {34}", " ", text)


def row(text: str, key: str) -> str:
    found = re.search(rf"^  {re.escape(key)}=.*$", text, re.MULTILINE)
    assert found, f"{key} has no line"
    return " ".join(found[0].split())


def leaf_comments(file: ConfigFile) -> dict[str, str]:
    """Of the keys that have values of their own; hydra's settings of a command are not the user's."""
    comments = file.comments
    inner = {key.rpartition(".")[0] for key in comments}
    return {
        key: comment
        for key, comment in comments.items()
        if key not in inner and not (file.group is None and key.split(".")[0] == "hydra")
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_key_of_a_command_is_told_with_its_comment(name):
    text = told(name)
    comments = leaf_comments(ConfigFile(CONF / f"{name}.yaml"))
    assert comments
    for key, comment in comments.items():
        assert comment, f"{key} of {name}.yaml has no comment"
        assert " ".join(comment.split()) in row(text, key)
    for key, value in leaves(composed(name)).items():
        if value is not None and not key.endswith("_target_"):
            row(text, key)


@pytest.mark.parametrize("group", CHOICES)
def test_every_key_of_a_choice_is_told_with_its_comment_in_the_help_of_the_choice(group):
    main = ConfigFile(CONF / "train.yaml").comments
    for choice in CHOICES[group]:
        if group == "sweep" and not sweeps.installed(sweeps.PLUGINS.get(choice, ("hydra", ""))[0]):
            continue
        text = told("train", f"{group}={choice}")
        assert f"* {group}={choice}" in text
        known = dict(main)
        for file in chain(group, choice):
            known |= {
                key: comment for key, comment in leaf_comments(file).items() if comment or key not in known
            }
        for key in leaf_comments(chain(group, choice)[-1]):
            comment = known[key]
            if key.endswith("_target_") and not comment:
                continue
            assert comment, f"{key} of {group}/{choice}.yaml has no comment"
            line = row(text, key)
            # A published setting gives values to keys whose comments say more where the keys come from.
            assert group == "experiment" or " ".join(comment.split()) in line


@pytest.mark.parametrize("name", COMMANDS)
def test_every_choice_has_a_line_with_the_first_of_its_comment(name):
    text = told(name)
    for group, comment in ConfigFile(CONF / f"{name}.yaml").groups.items():
        assert re.search(rf"^  {group} +{re.escape(comment)}$", text, re.MULTILINE)
        for choice in CHOICES[group]:
            (line,) = re.findall(rf"^  [ *] {group}={choice}(?: .*)?$", text, re.MULTILINE)
            header = chain(group, choice)[-1].header
            assert header, f"{group}/{choice}.yaml has no comment at its top"
            assert " ".join(header[0].split()) in " ".join(line.split())


def test_choice_and_value_beside_help_are_the_ones_that_are_told():
    text = told("train", "algorithm=protonet", "task.ways=7", "logger=[csv,wandb]")
    assert "* algorithm=protonet" in text
    assert "* algorithm=maml " not in text
    assert row(text, "algorithm.distance").startswith("algorithm.distance=euclidean between a query")
    assert "algorithm.meta_gradient" not in text
    assert row(text, "task.ways").startswith("task.ways=7 ")
    assert row(text, "model.ways").startswith("model.ways=null ")  # the embedding, which protonet chooses
    assert "* model=conv4_embedding" in text
    assert "* logger=csv" in text
    assert "* logger=wandb" in text
    assert row(text, "logger.wandb.project")


def test_help_is_printed_and_nothing_is_run_or_written(tmp_path):
    done = call(tmp_path, "train", "--help")
    assert (done.code, done.stderr) == (0, "")
    assert "python scripts/train.py resume=RUN_DIR" in done.stdout  # examples
    assert "powered by Hydra" not in done.stdout
    assert "usage: train.py [key=value ...] [group=choice ...]" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 130
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["evaluate", "export", "xray", "replay", "reproduce", "mnist", "bench"])
def test_every_command_says_what_it_does(tmp_path, name):
    done = call(tmp_path, name, "--help")
    assert done.code == 0, done.stderr
    assert f"python scripts/{name}.py" in done.stdout
    assert "hydra.sweep.dir" not in done.stdout


def test_help_of_what_is_not_there_is_an_error(tmp_path):
    done = call(tmp_path, "train", "algorithm=mmal", "--help")
    assert done.code == 1
    assert done.stderr.startswith("error: invalid algorithm 'mmal'; did you mean maml?")


def test_choices_of_the_users_own_are_told_too(tmp_path):
    folder = tmp_path / "mine" / "algorithm"
    folder.mkdir(parents=True)
    (folder / "own.yaml").write_text(
        "# An algorithm of my own.\n_target_: meta.MAML\ninner_lr: 0.3  # its rate\n"
    )
    done = call(tmp_path, "train", "--config-dir", "mine", "algorithm=own", "--help")
    assert done.code == 0, done.stderr
    assert re.search(r"\* algorithm=own +An algorithm of my own\.", done.stdout)
    assert re.search(r"algorithm\.inner_lr=0\.3 +its rate", done.stdout)


def test_comment_is_what_follows_a_value_and_no_part_of_one(tmp_path):
    path = Path(tmp_path / "a.yaml")
    path.write_text(
        "# Top.\n# Second.\n\na: '# no comment'  # one\nb: [1, 2]  # two # three\nc: x#y\nd:\n  e: null  # four\n"
        "f: {}  # five\n"
    )
    file = ConfigFile(path, "g")
    assert file.header == ["Top.", "Second."]
    assert file.comments == {
        "g.a": "one",
        "g.b": "two # three",
        "g.c": "",
        "g.d": "",
        "g.d.e": "four",
        "g.f": "five",
    }
