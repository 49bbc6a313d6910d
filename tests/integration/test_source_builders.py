"""Sources that are made first, by the tools of their fields: buildah and mmdebstrap."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stele.seal import packages, sources
from stele.seal.sources import debian
from stele.seal.sources.source import Input
from stele.trust.digest import sha256
from stele.trust.errors import SteleError
from tests.refusals import code


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A root file system with one static program."""
    made = tmp_path_factory.mktemp("build") / "root"
    (made / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", made / "bin" / "busybox")
    (made / "bin" / "sh").symlink_to("busybox")
    return made


@pytest.fixture
def context(tmp_path, root) -> Path:
    made = tmp_path / "context"
    made.mkdir()
    subprocess.run(["tar", "-C", str(root), "--owner=0", "--group=0", "-cf", str(made / "root.tar"), "."], check=True)
    (made / "app").write_text("hello\n")
    return made


@pytest.fixture(autouse=True)
def _nothing_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Builders get a folder for what is temporary that everybody may enter, as /tmp; afterwards it is empty."""
    del tmp_path  # made before, so that pytest's own folder does not come to lie there
    with tempfile.TemporaryDirectory(prefix="stele-test-", dir="/tmp") as folder:
        os.chmod(folder, 0o1777)
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield
        assert os.listdir(folder) == []


@pytest.mark.root
def test_a_containerfile_gives_the_tree_that_its_folder_gives(context, root, tmp_path):
    file = context / "Containerfile"
    file.write_text('FROM scratch\nARG word=none\nADD root.tar /\nCOPY app /srv/app\nRUN echo $word > /srv/made\nCMD ["/bin/sh"]\n')
    with sources.load(file, arguments=("word=given",)) as built:
        tree = built.tree
        assert built.kind == "containerfile"
        assert built.defaults.command == ("/bin/sh",)
        assert Input("file:Containerfile", sha256(file.read_bytes())) in built.inputs
        assert Input("arg:word=given", "") in built.inputs
        assert built.contents.read(tree.get(b"srv/made").sha256) == b"given\n"
        assert "built without the network" in built.notes
    by_hand = tmp_path / "by-hand"
    shutil.copytree(root, by_hand, symlinks=True)
    (by_hand / "srv").mkdir()
    (by_hand / "srv" / "app").write_text("hello\n")
    (by_hand / "srv" / "made").write_text("given\n")
    for name in ("dev", "proc", "sys", "run"):
        (by_hand / name).mkdir(exist_ok=True)
    with sources.load(by_hand) as plain:
        expected = {node.path for node in plain.tree.nodes} - {b"dev", b"proc", b"sys", b"run"}
        assert expected <= {node.path for node in tree.nodes}
        for name in (b"srv/app", b"srv/made", b"bin/busybox", b"bin/sh"):
            assert tree.get(name) == plain.tree.get(name)


@pytest.mark.root
def test_every_image_that_a_build_used_is_recorded_by_digest(context, debian, tmp_path, monkeypatch):
    """Of all stages, named by tag or by digest, and of COPY --from."""
    digests = {}
    for name in ("base", "other", "copied"):
        layout = tmp_path / name
        subprocess.run(["umoci", "init", "--layout", layout], check=True)
        subprocess.run(["umoci", "new", "--image", f"{layout}:v1"], check=True)
        (tmp_path / f"{name}.txt").write_text(name)
        subprocess.run(["umoci", "insert", "--rootless", "--image", f"{layout}:v1", tmp_path / f"{name}.txt", f"/{name}.txt"], check=True)
        subprocess.run(
            ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:v1", f"docker://{debian}/team/{name}:v1"], check=True
        )
        [manifest] = json.loads((layout / "index.json").read_bytes())["manifests"]
        digests[name] = manifest["digest"]
    conf = tmp_path / "registries.conf"  # whoever has such a registry has told it to buildah
    conf.write_text(f'[[registry]]\nlocation = "{debian}"\ninsecure = true\n')
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    file = context / "Containerfile"
    file.write_text(
        f"FROM {debian}/team/other@{digests['other']} AS one\nFROM {debian}/team/base:v1\n"
        f"COPY --from=one /other.txt /\nCOPY --from={debian}/team/copied:v1 /copied.txt /\n"
    )
    with sources.load(file) as built:
        assert {node.path for node in built.tree.files()} == {b"base.txt", b"other.txt", b"copied.txt"}
        images = {item for item in built.inputs if item.uri.startswith("docker://")}
    assert images == {Input(f"docker://{debian}/team/{name}{':v1' * (name != 'other')}", digest) for name, digest in digests.items()}


@pytest.mark.root
def test_steps_have_no_network_unless_it_is_given(context):
    file = context / "Containerfile"
    count = 'FROM scratch\nADD root.tar /\nRUN ["/bin/busybox", "sh", "-c", "test $(/bin/busybox grep -c : /proc/net/dev) -gt 1"]\n'
    file.write_text(count)
    assert code(sources.load, file) == "seal.build-failed"
    with sources.load(file, network=True) as built:
        assert "built with the network" in built.notes


@pytest.mark.root
def test_a_build_that_fails_says_why_and_leaves_nothing(context):
    (context / "Dockerfile").write_text("FROM scratch\nCOPY missing /\n")
    with pytest.raises(SteleError) as raised:
        sources.load(context, kind="containerfile")
    assert raised.value.code == "seal.build-failed"
    assert "missing" in raised.value.reason
    assert code(sources.load, context / "app", kind="containerfile") == "seal.build-failed"
    (context / "Dockerfile").unlink()
    assert code(sources.load, context, kind="containerfile") == "seal.source-missing"


def test_a_tar_archive_gives_the_tree_that_its_folder_gives(context, root, tmp_path):
    with sources.load(root) as plain, sources.load(context / "root.tar", kind="root-tar") as archived:
        assert archived.tree == plain.tree
        assert archived.input_digest == sha256((context / "root.tar").read_bytes())
    packed = tmp_path / "packed"
    for program in ("gzip", "zstd", "pzstd"):
        packed.write_bytes(subprocess.run([program, "-c", str(context / "root.tar")], capture_output=True, check=True).stdout)
        with sources.load(packed, kind="root-tar") as again:
            assert again.tree == plain.tree
    assert code(sources.load, context / "root.tar") == "seal.source-missing"  # it could be an image of some kind, but is none


def test_a_hostile_tar_archive(tmp_path):
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("../escape"))
    assert code(sources.load, path, kind="root-tar") == "seal.path-escapes"
    path.write_bytes(b"no archive at all" * 100)
    assert code(sources.load, path, kind="root-tar") == "seal.bad-archive"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("one"))
        tar.addfile(tarfile.TarInfo("two"))
    path.write_bytes(path.read_bytes()[:512])  # cut between two members: no digest vouches for it
    assert code(sources.load, path, kind="root-tar") == "seal.bad-archive"


LIST = "debian: 0\nsuite: bookworm\nvariant: essential\npackages: [busybox-static]\n"


@pytest.mark.root
def test_a_package_list_gives_the_same_tree_each_time_and_says_what_it_was(tmp_path):
    path = tmp_path / "small.debian.yaml"
    path.write_text(LIST)
    with sources.load(path) as one, sources.load(path) as two:
        assert one.tree == two.tree
        assert one.inputs == two.inputs
        found = packages.find(one.tree, one.contents)
        installed = {f"pkg:deb/debian/{p.name}@{p.version}?arch={p.architecture}&distro=bookworm" for p in found}
        assert {item.uri for item in one.inputs} == installed
        assert all(item.digest.startswith("sha256:") for item in one.inputs)
        assert "busybox-static" in {p.name for p in found}
        assert one.tree.get(b"etc/machine-id").size == 0
        assert one.tree.get(b"etc/hostname") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]", "debian: 1\nsuite: x\n", LIST + "more: 1\n", LIST.replace("busybox-static", "--hook"),
        LIST.replace("busybox-static", "a;b"),
        LIST.replace("bookworm", "'../x'"), LIST + "mirror: 'deb [trusted=yes] http://x'\n", LIST + "mirror: 'copy:///x'\n",
        LIST + "snapshot: yesterday\n", LIST + "mirror: 'http://x/'\nsnapshot: 20260101T000000Z\n", LIST + "components: ['main contrib']\n",
        "!!python/object/apply:os.system ['true']", "a: &x [*x]\n",
    ],
)  # fmt: skip
def test_package_lists_that_are_refused(tmp_path, text):
    path = tmp_path / "list"
    path.write_text(text)
    assert code(sources.load, path, kind="debian") == "seal.bad-package-list"


@pytest.mark.root
def test_what_apt_says_of_a_suite_that_is_not_there_is_in_the_error(tmp_path):
    (tmp_path / "mirror").mkdir()
    path = tmp_path / "small.debian.yaml"
    path.write_text(LIST.replace("bookworm", "nosuch") + f"mirror: file://{tmp_path}/mirror\n")
    with pytest.raises(SteleError, match=r"nosuch Release.* does not have a Release file") as raised:
        sources.load(path)
    assert raised.value.code == "host.program-failed"


@given(st.text(max_size=80))
def test_no_text_breaks_the_parser(text):
    try:
        debian.parse(text.encode("utf-8", "surrogatepass"))
    except SteleError as error:
        assert error.code == "seal.bad-package-list"
