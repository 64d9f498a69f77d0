"""A figure knows its revision on a machine without git, too."""

import json
import shutil
import subprocess

import pytest

from sdn_triton.bench.measuring import revision

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def repository(tmp_path):
    def git(*arguments: str) -> None:
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--quiet")
    (tmp_path / "kernel.py").write_text("1\n")
    (tmp_path / ".gitignore").write_text(f"/{revision.FILE}\n")
    git("add", ".")
    git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "first")
    return tmp_path


@needs_git
@pytest.mark.parametrize("changed", [False, True])
def test_what_was_written_is_read_where_git_is_not(repository, changed, capsys):
    if changed:
        (repository / "kernel.py").write_text("2\n")
    expected = revision.git_revision(repository)
    assert len(expected["revision"]) == 40
    assert expected["dirty"] is changed
    assert (expected["changes"] is not None) is changed
    assert revision.main(repository) == 0
    assert json.loads(capsys.readouterr().out) == expected
    assert revision.git_revision(repository) == expected  # the file itself is no change
    shutil.rmtree(repository / ".git")
    assert revision.git_revision(repository) == expected
    assert revision.main(repository) == 1
    assert "git knows no revision" in capsys.readouterr().err


@needs_git
def test_inside_a_repository_the_file_is_not_read(repository):
    (repository / revision.FILE).write_text('{"revision": "stale", "dirty": false, "changes": null}')
    assert revision.git_revision(repository)["revision"] != "stale"


def test_without_either_nobody_knows(tmp_path):
    assert revision.git_revision(tmp_path) == {"revision": None, "dirty": None, "changes": None}


@pytest.mark.parametrize("text", ["5f920f8\n", "{}", '{"revision": "a"}', "[]"])
def test_a_file_that_says_something_else_is_an_error(tmp_path, text):
    (tmp_path / revision.FILE).write_text(text)
    with pytest.raises(ValueError, match=r"REVISION must hold what .* writes, got "):
        revision.git_revision(tmp_path)
