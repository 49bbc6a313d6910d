"""Docker archives and OCI layouts: one tree whatever the form, every digest checked, nothing chosen silently."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stele.seal import sources
from stele.seal.sources.source import Limits
from stele.trust.errors import SteleError
from tests.archives import (
    END,
    MACHINE,
    TYPE,
    config_of,
    descriptor,
    digest,
    docker_save_new,
    docker_save_old,
    file,
    folder,
    image_blobs,
    index_of,
    link,
    oci_layout,
    symlink,
    write_layout,
    zstd,
)

if TYPE_CHECKING:
    from stele.seal.sources.source import Source

ONE = folder(b"bin/") + file(b"bin/app", b"#!/bin/true\n", mode=0o755) + file(b"old") + symlink(b"l", b"bin") + END
TWO = folder(b"srv", uid=33, gid=33) + file(b"srv/big", bytes(range(256)) * 8000) + link(b"srv/x", b"srv/big") + file(b".wh.old", b"") + END
MANIFEST = TYPE + "manifest.v1+json"
OTHER = "arm64" if MACHINE != "arm64" else "amd64"


def load(path: Path, **options: Any) -> tuple[str, Source]:
    with sources.load(path, **options) as source:
        for node in source.tree.files():
            assert hashlib.sha256(source.contents.read(node.sha256)).hexdigest() == node.sha256
        return source.tree.digest(), source


def refused(code: str, path: Path, **options: Any) -> SteleError:
    with pytest.raises(SteleError) as caught:
        load(path, **options)
    assert caught.value.code == code
    return caught.value


def unpacked(path: Path) -> Path:
    """What ONE and TWO come to, as a folder of this user's."""
    path.mkdir()
    (path / "bin").mkdir(mode=0o755)
    (path / "bin" / "app").write_text("#!/bin/true\n")
    (path / "bin" / "app").chmod(0o755)
    (path / "l").symlink_to("bin")
    (path / "srv").mkdir(mode=0o755)
    (path / "srv" / "big").write_bytes(bytes(range(256)) * 8000)
    (path / "srv" / "big").chmod(0o644)
    (path / "srv" / "x").hardlink_to(path / "srv" / "big")
    return path


def test_every_form_of_one_image_gives_one_tree(tmp_path: Path) -> None:
    two = folder(b"srv") + TWO[512:]
    forms = [
        unpacked(tmp_path / "folder"),
        docker_save_old(tmp_path / "old.tar", [ONE, two]),
        docker_save_new(tmp_path / "new.tar", [ONE, two]),
        oci_layout(tmp_path / "gzip", [ONE, two]),
        oci_layout(tmp_path / "zstd", [ONE, two], fold=zstd),
        oci_layout(tmp_path / "none", [ONE, two], fold=bytes),
        oci_layout(tmp_path / "members", [ONE, two], fold=lambda data: gzip.compress(data[:700]) + gzip.compress(data[700:])),
        oci_layout(
            tmp_path / "frames", [ONE, two], fold=lambda data: zstd(data[:700]) + b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstd(data[700:])
        ),
    ]
    packed = tmp_path / "layout.tar"
    with tarfile.open(packed, "w") as tar:
        tar.add(tmp_path / "gzip", ".")
    for name, fold in (("old.tar.gz", gzip.compress), ("old.tar.zst", zstd)):
        (tmp_path / name).write_bytes(fold((tmp_path / "old.tar").read_bytes()))
        forms.append(tmp_path / name)
    digests = {str(path): load(path)[0] for path in [*forms, packed]}
    assert len(set(digests.values())) == 1, digests


def test_layers_repeated_as_symlinks_as_docker_did_are_found(tmp_path: Path) -> None:
    plain = docker_save_old(tmp_path / "plain.tar", [ONE, TWO, ONE])
    short = docker_save_old(tmp_path / "short.tar", [ONE, TWO, ONE], repeat_as_symlink=True)
    assert short.stat().st_size < plain.stat().st_size
    assert load(plain)[0] == load(short)[0]


def test_an_image_offers_its_configuration_and_nothing_of_it_is_sealed(tmp_path: Path) -> None:
    _, source = load(docker_save_old(tmp_path / "a.tar", [ONE]))
    assert source.defaults.command == ("/bin/app", "-v")
    assert source.defaults.env == {"A": "1", "B": "x=y"}
    assert (source.defaults.user, source.defaults.workdir) == ("33", "/srv")
    assert source.input_digest == digest(config_of([ONE]))
    assert (source.kind, source.reference, source.platform) == ("docker-archive", "app:1", f"linux/{MACHINE}")


def test_owners_of_an_image_are_kept(tmp_path: Path) -> None:
    with sources.load(oci_layout(tmp_path / "a", [ONE, TWO])) as source:
        srv = source.tree.get(b"srv")
        assert srv is not None
        assert (srv.uid, srv.gid) == (33, 33)


# --- which image


def two_images(path: Path, *names: str, **more: Any) -> Path:
    blobs: dict[str, bytes] = {}
    entries = []
    for number, name in enumerate(names):
        own, manifest = image_blobs([ONE, file(b"n", b"%d" % number) + END])
        blobs |= own
        entries.append(descriptor(own[manifest], MANIFEST, name=name, **more))
    return write_layout(path, blobs, index_of(entries))


def test_several_images_need_a_reference_and_are_listed(tmp_path: Path) -> None:
    path = two_images(tmp_path / "a", "v1", "v2")
    assert "v1, v2" in refused("seal.ambiguous-image", path).reason
    refused("seal.ambiguous-image", path, reference="v3")
    first, second = load(path, reference="v1"), load(path, reference="v2")
    assert first[0] != second[0]
    assert first[1].reference == "v1"
    assert load(path, reference=first[1].input_digest)[0] == first[0]
    refused("seal.ambiguous-image", write_layout(tmp_path / "empty", {}, index_of([])))


def test_images_of_a_docker_archive_are_told_by_tag_or_id(tmp_path: Path) -> None:
    saved = []
    out = b""
    for number in range(2):
        layer = file(b"n", b"%d" % number) + END
        config = config_of([layer])
        out += file(f"{number}.tar".encode(), layer) + file(f"{digest(config)[7:]}.json".encode(), config)
        saved.append({"Config": f"{digest(config)[7:]}.json", "RepoTags": [f"host:5000/app:{number}"], "Layers": [f"{number}.tar"]})
    path = tmp_path / "two.tar"
    path.write_bytes(out + file(b"manifest.json", json.dumps(saved).encode()) + END)
    assert "host:5000/app:0, host:5000/app:1" in refused("seal.ambiguous-image", path).reason
    refused("seal.ambiguous-image", path, reference="app")
    by_tag, source = load(path, reference="app:1")
    assert load(path, reference="host:5000/app:1")[0] == load(path, reference=source.input_digest)[0] == by_tag


def platforms(path: Path, *said: dict[str, str] | None, nested: bool = True) -> Path:
    blobs: dict[str, bytes] = {}
    entries = []
    for number, platform in enumerate(said):
        own, manifest = image_blobs([ONE, file(b"n", b"%d" % number) + END])
        blobs |= own
        entries.append(descriptor(own[manifest], MANIFEST, **({"platform": platform} if platform else {})))
    index = index_of(entries)
    if not nested:
        return write_layout(path, blobs, index)
    return write_layout(path, {**blobs, digest(index): index}, index_of([descriptor(index, TYPE + "index.v1+json", name="all")]))


@pytest.mark.parametrize("nested", [True, False])
def test_of_several_platforms_this_machine_is_chosen_and_said(tmp_path: Path, nested: bool) -> None:
    own, other = {"os": "linux", "architecture": MACHINE}, {"os": "linux", "architecture": OTHER}
    unknown = {"os": "unknown", "architecture": "unknown"}
    path = platforms(tmp_path / "a", other, own, unknown, nested=nested)
    with sources.load(path) as source:
        node = source.tree.get(b"n")
        assert node is not None
        assert source.contents.read(node.sha256) == b"1"
        assert any(f"sealed is linux/{MACHINE}" in note for note in source.notes)
    refused("seal.no-platform", platforms(tmp_path / "b", other, {"os": "windows", "architecture": MACHINE}))
    refused("seal.no-platform", platforms(tmp_path / "c", own, own))


@pytest.mark.parametrize("depth", [1, 2])
def test_the_only_image_of_an_index_need_not_say_its_platform(tmp_path: Path, depth: int) -> None:
    blobs, manifest = image_blobs([ONE])
    entry = descriptor(blobs[manifest], MANIFEST)
    for _ in range(depth):  # `crane index append` says none where it does not know one, and an index in an index has none
        index = index_of([entry, descriptor(b"sbom", MANIFEST, artifactType="application/spdx+json")])
        blobs[digest(index)] = index
        entry = descriptor(index, TYPE + "index.v1+json")
    path = write_layout(tmp_path / "a", blobs, index_of([entry]))
    assert load(path)[0] == load(path, platform=f"linux/{MACHINE}")[0] == load(oci_layout(tmp_path / "b", [ONE]))[0]
    refused("seal.no-platform", path, platform=f"linux/{OTHER}")  # its config says what it is for
    refused("seal.no-platform", platforms(tmp_path / "c", None, None))


def test_what_is_null_counts_as_left_out_and_an_image_may_have_no_layers(tmp_path: Path) -> None:
    config = json.loads(config_of([ONE], variant=None, created=None, history=None, config=None))
    blobs, manifest = image_blobs([ONE], config=json.dumps(config).encode())
    said = json.loads(blobs.pop(manifest)) | {"manifests": None, "annotations": None, "subject": None}
    said["layers"][0] |= {"artifactType": None, "urls": None, "platform": None}
    blobs[digest(json.dumps(said).encode())] = again = json.dumps(said).encode()
    entry = descriptor(again, MANIFEST, platform={"os": "linux", "architecture": MACHINE, "variant": None})
    index = index_of([{**entry, "artifactType": TYPE + "config.v1+json"}], annotations=None)
    assert load(write_layout(tmp_path / "nulls", blobs, index))[0] == load(oci_layout(tmp_path / "plain", [ONE]))[0]
    for number, (layers, rootfs) in enumerate(((None, {"type": "layers"}), (None, {"diff_ids": None}), ([], {"diff_ids": []}))):
        bare = json.dumps({"architecture": MACHINE, "os": "linux", "rootfs": rootfs}).encode()
        text = json.dumps({"schemaVersion": 2, "config": descriptor(bare, TYPE + "config.v1+json"), "layers": layers}).encode()
        entry = descriptor(text, MANIFEST)
        path = write_layout(tmp_path / str(number), {digest(data): data for data in (bare, text)}, index_of([entry]))
        assert [node.path for node in load(path)[1].tree] == [b""]
        saved = json.dumps([{"Config": "config.json", "RepoTags": None, "Layers": layers}]).encode()
        (tmp_path / f"{number}.tar").write_bytes(file(b"config.json", bare) + file(b"manifest.json", saved) + END)
        assert [node.path for node in load(tmp_path / f"{number}.tar")[1].tree] == [b""]


def test_sizes_are_whole_numbers(tmp_path: Path) -> None:
    for number, size in enumerate((-1, 1.0, "1", 2**80)):
        blobs, manifest = image_blobs([ONE])
        said = json.loads(blobs.pop(manifest))
        said["layers"][0]["size"] = size
        text = json.dumps(said).encode()
        path = write_layout(tmp_path / str(number), {**blobs, digest(text): text}, index_of([descriptor(text, MANIFEST)]))
        with pytest.raises(SteleError) as raised:
            load(path)
        assert raised.value.code in {"seal.bad-archive", "seal.digest-mismatch"}


def test_an_artifact_is_no_image_and_not_called_damaged(tmp_path: Path) -> None:
    for number, kind in enumerate(("application/vnd.oci.empty.v1+json", "application/vnd.cncf.helm.config.v1+json")):
        manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": descriptor(b"{}", kind), "layers": []}).encode()
        blobs = {digest(data): data for data in (b"{}", manifest)}
        error = refused("seal.bad-archive", write_layout(tmp_path / str(number), blobs, index_of([descriptor(manifest, MANIFEST)])))
        assert kind in error.reason
        assert "damaged" not in str(error.remedy)


def test_zstd_that_begins_with_a_frame_to_be_skipped_is_unfolded(tmp_path: Path) -> None:
    def fold(data: bytes) -> bytes:  # as pzstd: before each frame one with its size
        frames = [zstd(data[at : at + 9000]) for at in range(0, len(data), 9000)]
        return b"".join(b"\x50\x2a\x4d\x18\4\0\0\0" + len(frame).to_bytes(4, "little") + frame for frame in frames)

    wanted = load(oci_layout(tmp_path / "plain", [ONE, TWO]))[0]
    assert load(oci_layout(tmp_path / "folded", [ONE, TWO], fold=fold))[0] == wanted
    saved = docker_save_old(tmp_path / "plain.tar", [ONE, TWO])
    (tmp_path / "folded.tar.zst").write_bytes(fold(saved.read_bytes()))
    assert load(tmp_path / "folded.tar.zst")[0] == wanted


def test_an_image_for_another_machine_is_sealed_with_a_note_and_for_another_system_refused(tmp_path: Path) -> None:
    for number, (more, code) in enumerate([({"architecture": OTHER}, ""), ({"os": "windows"}, "seal.no-platform")]):
        blobs, manifest = image_blobs([ONE], config=config_of([ONE], **more))
        path = write_layout(tmp_path / str(number), blobs, index_of([descriptor(blobs[manifest], MANIFEST)]))
        if code:
            refused(code, path)
        else:
            assert any("which this machine is not" in note for note in load(path)[1].notes)


def test_signatures_and_attestations_beside_an_image_are_not_images(tmp_path: Path) -> None:
    blobs, manifest = image_blobs([ONE])
    attached = [
        descriptor(b"1", MANIFEST, artifactType="application/vnd.dev.sigstore.bundle.v0.3+json"),
        {**descriptor(b"2", MANIFEST), "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
        {**descriptor(b"3", MANIFEST), "annotations": {"kind": "dev.cosignproject.cosign/sigs"}},
    ]
    load(write_layout(tmp_path / "a", blobs, index_of([descriptor(blobs[manifest], MANIFEST), *attached])))


# --- what was altered


def altered(path: Path, name: str, data: bytes) -> Path:
    target = path / "blobs" / "sha256" / name[7:]
    assert target.exists()
    target.write_bytes(data)
    return path


def test_a_changed_blob_is_refused_whichever_it_is(tmp_path: Path) -> None:
    blobs, manifest = image_blobs([ONE, TWO])
    for number, name in enumerate(blobs):
        for kind, data in (("flipped", blobs[name][:-9] + b"\0" + blobs[name][-8:]), ("longer", blobs[name] + b" "), ("empty", b"")):
            path = write_layout(tmp_path / f"{number}{kind}", blobs, index_of([descriptor(blobs[manifest], MANIFEST)]))
            with pytest.raises(SteleError) as caught:
                load(altered(path, name, data))
            assert caught.value.code in {"seal.digest-mismatch", "seal.bad-archive"}


def test_a_layer_that_is_whole_but_another_is_refused(tmp_path: Path) -> None:
    path = oci_layout(tmp_path / "a", [ONE, TWO], fold=bytes)
    refused("seal.digest-mismatch", altered(path, digest(ONE), file(b"bin/app", b"evil") + END))
    path = oci_layout(tmp_path / "b", [ONE, TWO])
    refused("seal.digest-mismatch", altered(path, digest(gzip.compress(ONE)), gzip.compress(file(b"bin/app", b"evil") + END)))


def test_a_diff_id_that_differs_is_refused(tmp_path: Path) -> None:
    blobs, manifest = image_blobs([ONE], config=config_of([TWO]))
    refused("seal.digest-mismatch", write_layout(tmp_path / "a", blobs, index_of([descriptor(blobs[manifest], MANIFEST)])))
    blobs, manifest = image_blobs([ONE], config=config_of([ONE, TWO]))
    refused("seal.bad-archive", write_layout(tmp_path / "b", blobs, index_of([descriptor(blobs[manifest], MANIFEST)])))


def test_a_docker_archive_with_another_layer_or_config_is_refused(tmp_path: Path) -> None:
    path = docker_save_old(tmp_path / "a.tar", [ONE])
    for old, new in ((b"#!/bin/true", b"#!/bin/evil"), (b'"-v"', b'"-x"')):
        data = path.read_bytes().replace(old, new)
        (tmp_path / "b.tar").write_bytes(data)
        refused("seal.digest-mismatch", tmp_path / "b.tar")


def test_missing_blobs_are_named(tmp_path: Path) -> None:
    blobs, manifest = image_blobs([ONE])
    for number, name in enumerate(blobs):
        path = write_layout(tmp_path / str(number), blobs, index_of([descriptor(blobs[manifest], MANIFEST)]))
        (path / "blobs" / "sha256" / name[7:]).unlink()
        assert name[7:] in refused("seal.missing-blob", path).reason


def test_a_blob_that_is_a_symlink_is_not_followed(tmp_path: Path) -> None:
    path = oci_layout(tmp_path / "a", [ONE])
    blob = path / "blobs" / "sha256" / digest(gzip.compress(ONE))[7:]
    blob.rename(tmp_path / "aside")
    blob.symlink_to(tmp_path / "aside")
    refused("seal.missing-blob", path)


def test_a_document_that_is_index_and_manifest_at_once_is_refused(tmp_path: Path) -> None:
    blobs, manifest = image_blobs([ONE])
    both = json.dumps({**json.loads(blobs[manifest]), "manifests": []}).encode()
    refused("seal.bad-archive", write_layout(tmp_path / "a", {**blobs, digest(both): both}, index_of([descriptor(both, MANIFEST)])))
    said = descriptor(blobs[manifest], TYPE + "index.v1+json")
    refused("seal.bad-archive", write_layout(tmp_path / "b", blobs, index_of([said])))


def test_digests_that_are_paths_are_refused(tmp_path: Path) -> None:
    for number, name in enumerate(("sha256:../../../../etc/passwd", "sha512:" + "0" * 128, "sha256:" + "A" * 64)):
        refused(
            "seal.bad-archive", write_layout(tmp_path / str(number), {}, index_of([{"digest": name, "size": 1, "mediaType": MANIFEST}]))
        )


def test_indexes_that_nest_without_end_are_refused(tmp_path: Path) -> None:
    inner = {"os": "linux", "architecture": MACHINE}
    blobs, name = image_blobs([ONE])
    data = blobs[name]
    media = MANIFEST
    for _ in range(5):
        index = index_of([descriptor(data, media, platform=inner)])
        blobs[digest(index)] = index
        data, media = index, TYPE + "index.v1+json"
    refused("seal.bad-archive", write_layout(tmp_path / "a", blobs, index_of([descriptor(data, media)])))


def test_a_docker_archive_whose_symlinks_leave_it_or_chain_is_refused(tmp_path: Path) -> None:
    config = config_of([ONE])
    for number, extra in enumerate(
        [
            symlink(b"layer.tar", b"../../etc/passwd"),
            symlink(b"layer.tar", b"b") + symlink(b"b", b"layer.tar"),
            symlink(b"layer.tar", b"layer.tar"),
        ]
    ):
        saved = [{"Config": "c.json", "RepoTags": None, "Layers": ["layer.tar"]}]
        path = tmp_path / f"{number}.tar"
        path.write_bytes(extra + file(b"c.json", config) + file(b"manifest.json", json.dumps(saved).encode()) + END)
        refused("seal.missing-blob", path)


# --- bombs, and arbitrary bytes


def test_bombs_are_refused_before_they_unfold(tmp_path: Path) -> None:
    limits = Limits(max_bytes=8 << 20, max_ratio=100, free_bytes=1 << 20)
    bomb = file(b"zeros", bytes(4 << 20)) + END
    for name, fold in (("gz", gzip.compress), ("zst", zstd)):
        error = refused("seal.too-large", oci_layout(tmp_path / name, [bomb], fold=fold), limits=limits)
        assert "100 times" in error.reason
        (tmp_path / f"a.{name}").write_bytes(fold(docker_save_old(tmp_path / "plain.tar", [bomb]).read_bytes()))
        refused("seal.too-large", tmp_path / f"a.{name}", limits=limits)
    many = [file(b"f", bytes([number]) * (4 << 20)) + END for number in range(3)]
    assert "8,388,608 bytes" in refused("seal.too-large", oci_layout(tmp_path / "sum", many, fold=bytes), limits=limits).reason


def test_a_zstd_window_beyond_reason_is_refused(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1)

    def fold(data: bytes) -> bytes:
        out = io.BytesIO()
        with zstandard.ZstdCompressor(compression_params=parameters).stream_writer(out, closefd=False) as writer:
            writer.write(data)
        return out.getvalue()

    refused("seal.bad-archive", oci_layout(tmp_path / "a", [ONE], fold=fold))


def test_cut_streams_are_refused(tmp_path: Path) -> None:
    for name, fold in (("gz", gzip.compress), ("zst", zstd)):
        data = fold(docker_save_old(tmp_path / "plain.tar", [ONE]).read_bytes())
        (tmp_path / name).write_bytes(data[:-20])
        refused("seal.bad-archive", tmp_path / name)
        blobs, manifest = image_blobs([ONE], fold=lambda layer, fold=fold: fold(layer)[:-5])
        with pytest.raises(SteleError):
            load(write_layout(tmp_path / f"l{name}", blobs, index_of([descriptor(blobs[manifest], MANIFEST)])))


def test_what_is_no_archive_is_told_plainly(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    refused("seal.bad-archive", tmp_path / "text")
    (tmp_path / "plain.tar").write_bytes(ONE)
    assert "plain tar" in refused("seal.source-missing", tmp_path / "plain.tar").remedy
    refused("seal.source-missing", docker_save_old(tmp_path / "d.tar", [ONE]), kind="oci-layout")
    refused("seal.unused-option", tmp_path, reference="v1")


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setenv("TMPDIR", str(spool))
    with sources.load(oci_layout(tmp_path / "a", [ONE, TWO])):
        assert not list(spool.iterdir())
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    refused("seal.no-room", tmp_path / "a")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_changed_byte_of_an_archive_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.tar"
    if not path.exists():
        docker_save_new(path, [ONE])
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= data.draw(st.integers(1, 255))
    (path.parent / "flipped.tar").write_bytes(flipped)
    try:
        found = load(path.parent / "flipped.tar")[0]
    except SteleError as error:
        assert error.code.startswith("seal.")
    else:
        assert found == load(path)[0]


@pytest.mark.parametrize("make", [oci_layout, docker_save_old])
def test_an_image_for_one_platform_alone_is_refused_where_another_was_asked_for(tmp_path: Path, make: Any) -> None:
    path = make(tmp_path / "a", [ONE])
    refused("seal.no-platform", path, platform=f"linux/{OTHER}")
    listed = platforms(tmp_path / "listed", {"os": "linux", "architecture": MACHINE}, nested=False)
    refused("seal.no-platform", listed, platform=f"linux/{OTHER}")
    assert load(listed, platform=f"linux/{MACHINE}")
    refused("seal.no-platform", path, platform="anything")
    assert load(path, platform=f"linux/{MACHINE}")[0] == load(path)[0]
