"""Git's files read without git: judged by git itself, and hostile ones."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.seal import checkout, git_objects

ENV = {
    **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
    "HOME": "/nonexistent",
}  # fmt: skip


def git(folder: Path, *argv: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *argv], capture_output=True, text=True, check=True, env=ENV)
    return done.stdout.strip()


def names(folder: Path) -> list[bytes]:
    return [
        os.fsencode(path.relative_to(folder))
        for path in folder.rglob("*")
        if ".git" not in path.relative_to(folder).parts and (path.is_file() or path.is_symlink())
    ]


def look(folder: Path) -> checkout.Checkout:
    found = checkout.find(folder, names(folder), whole=True)
    assert found is not None
    return found


@pytest.fixture(params=["sha1", "sha256"])
def repository(request, tmp_path):
    folder = tmp_path / "work"
    (folder / "src" / "deep").mkdir(parents=True)
    git(tmp_path, "init", "-q", "-b", "main", f"--object-format={request.param}", "work")
    for name in ("a", "src/b", "src/deep/c", "src-d", "src.e"):
        (folder / name).write_text(name * 10)
    (folder / "src" / "tool").write_text("x")
    (folder / "src" / "tool").chmod(0o755)
    (folder / "link").symlink_to("src/b")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "first")
    return folder


def test_a_clean_checkout(repository):
    found = look(repository)
    assert found == checkout.Checkout(git(repository, "rev-parse", "HEAD"), "", b"", 0, 0, False)
    assert found.dirty is False
    assert look(repository / "src").folder == b"src"


@pytest.mark.parametrize("version", ["2", "3", "4"])
def test_every_version_of_the_index(repository, version):
    git(repository, "config", "index.version", version)
    git(repository, "update-index", f"--index-version={version}", "--force-write-index")
    if version == "3":
        git(repository, "update-index", "--skip-worktree", "src/b")
        (repository / "src" / "b").unlink()
    assert look(repository).dirty is False


def test_what_differs_is_counted(repository):
    (repository / "a").write_text("other")
    (repository / "src" / "deep" / "c").unlink()
    (repository / "src" / "tool").chmod(0o644)
    (repository / "new").write_text("new")
    found = look(repository)
    assert (found.modified, found.untracked, found.staged, found.dirty) == (3, 1, False, True)
    assert look(repository / "src").modified == 2
    git(repository, "add", "a")
    assert look(repository).staged is True


def test_the_same_bytes_with_another_time_are_the_same(repository):
    os.utime(repository / "a", ns=(1, 1))
    assert look(repository).dirty is False
    (repository / "a").write_text("b" * 10)  # as long as before
    os.utime(repository / "a", ns=(1, 1))
    assert look(repository).modified == 1


def test_commits_in_packs_and_on_top_of_each_other(repository):
    for number in range(30):
        (repository / "a").write_text(str(number))
        git(repository, "commit", "-qam", "a message that is long enough to make one commit a delta of another " * 20 + str(number))
    git(repository, "gc", "-q", "--aggressive", "--prune=now")
    git(repository, "pack-refs", "--all")
    assert not any(path.is_file() for path in (repository / ".git" / "objects").glob("??/*"))
    for commit in git(repository, "rev-list", "HEAD").split():
        tree = git_objects.commit_tree(repository / ".git" / "objects", commit)
        assert tree is not None
        assert tree.hex() == git(repository, "rev-parse", f"{commit}^{{tree}}")
    assert look(repository).dirty is False


def test_worktrees_and_detached_heads(repository, tmp_path):
    git(repository, "worktree", "add", "-q", "--detach", str(tmp_path / "second"))
    found = look(tmp_path / "second")
    assert found.dirty is False
    assert found.commit == git(repository, "rev-parse", "HEAD")


def test_the_first_commit_is_still_to_come(tmp_path):
    git(tmp_path, "init", "-q", "-b", "main", "empty")
    assert checkout.find(tmp_path / "empty", [], whole=True) is None
    assert checkout.find(Path("/proc/self"), [], whole=True) is None


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://me:s3cret@git.example/x/y.git", "git+https://git.example/x/y.git"),
        ("https://token@git.example/x/y.git?private=1", "git+https://git.example/x/y.git"),
        ("git@git.example:x/y.git", "git+ssh://git.example/x/y.git"),
        ("ssh://git@git.example:22/x", "git+ssh://git.example:22/x"),
        ("/home/me/secret/place", ""),
        ("file:///home/me", ""),
        ("ext::sh -c 'touch x'", ""),
    ],
)
def test_the_url_has_no_credentials_and_no_path_of_this_machine(repository, url, said):
    git(repository, "config", "remote.origin.url", url)
    assert look(repository).url == said


def test_a_hostile_repository_runs_nothing_and_leads_nowhere(repository, tmp_path):
    mark = tmp_path / "ran"
    for key in ("core.fsmonitor", "core.sshCommand", "filter.x.clean", "diff.external"):
        git(repository, "config", key, f"touch {mark}")
    (repository / ".gitattributes").write_text("* filter=x\n")
    look(repository)
    assert not mark.exists()
    secret = tmp_path / "secret"
    secret.write_text("root:$y$hash\n")
    for text in (f"ref: {secret}", "ref: refs/heads/../../../../secret", "ref: refs/heads/\0x", "ref: ref: x", "f" * 39, ""):
        (repository / ".git" / "HEAD").write_text(text)
        assert checkout.find(repository, [], whole=True) is None
    (repository / ".git" / "HEAD").unlink()
    os.mkfifo(repository / ".git" / "HEAD")
    assert checkout.find(repository, [], whole=True) is None


def test_a_damaged_index_is_unknown(repository):
    index = repository / ".git" / "index"
    whole = index.read_bytes()
    for size in range(0, len(whole), 7):
        index.write_bytes(whole[:size])
        found = look(repository)
        assert found.dirty is None or size == 0
    index.write_bytes(whole[:8] + b"\xff\xff\xff\xff" + whole[12:])
    assert look(repository).dirty is None


@given(st.binary(max_size=300), st.sampled_from([20, 32]))
def test_no_index_breaks_the_reader(data, size):
    for head in (b"", b"DIRC\0\0\0\x02\0\0\0\x02", b"DIRC\0\0\0\x04\0\0\0\x03"):
        with contextlib.suppress(IndexError, ValueError):
            checkout._entries(head + data, size)


@given(st.binary(max_size=40), st.binary(max_size=60))
def test_no_delta_breaks_the_reader(base, delta):
    with contextlib.suppress(IndexError, ValueError):
        git_objects.patched(base, delta)
