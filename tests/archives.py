"""Archives for tests, byte by byte: tar members that no tool would write, docker archives old and new, OCI layouts."""

from __future__ import annotations

import gzip
import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import zstandard

BLOCK = 512
END = bytes(2 * BLOCK)
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
TYPE = "application/vnd.oci.image."


def _octal(value: int, width: int) -> bytes:
    return f"{value:0{width - 1}o}\0".encode()


def header(
    name: bytes,
    flag: bytes = b"0",
    *,
    size: int = 0,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_600_000_000,
    link: bytes = b"",
    magic: bytes = b"ustar\x0000",
    prefix: bytes = b"",
    rdev: tuple[int, int] = (0, 0),
    raw_size: bytes | None = None,
) -> bytes:
    """One 512-byte header with a right checksum; nothing else about it is checked."""
    assert len(name) <= 100
    assert len(link) <= 100
    out = bytearray(BLOCK)
    out[0 : len(name)] = name
    out[100:108] = _octal(mode, 8)
    out[108:116] = _octal(uid, 8)
    out[116:124] = _octal(gid, 8)
    out[124:136] = raw_size if raw_size is not None else _octal(size, 12)
    out[136:148] = _octal(mtime, 12)
    out[156:157] = flag
    out[157 : 157 + len(link)] = link
    out[257:265] = magic
    out[329:337] = _octal(rdev[0], 8)
    out[337:345] = _octal(rdev[1], 8)
    out[345 : 345 + len(prefix)] = prefix
    out[148:156] = b" " * 8
    out[148:156] = f"{sum(out):06o}\0 ".encode()
    return bytes(out)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def file(name: bytes, data: bytes = b"x", **fields: Any) -> bytes:
    return header(name, size=len(data), **fields) + padded(data)


def folder(name: bytes, **fields: Any) -> bytes:
    return header(name, b"5", **{"mode": 0o755, **fields})


def symlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    return header(name, b"2", link=target, mode=0o777, **fields)


def link(name: bytes, target: bytes, **fields: Any) -> bytes:
    return header(name, b"1", link=target, **fields)


def records(pairs: list[tuple[bytes, bytes]]) -> bytes:
    out = b""
    for key, value in pairs:
        body = b" " + key + b"=" + value + b"\n"
        length = len(body) + 1
        while len(str(length)) + len(body) != length:
            length = len(str(length)) + len(body)
        out += str(length).encode() + body
    return out


def pax(pairs: list[tuple[bytes, bytes]], flag: bytes = b"x") -> bytes:
    data = records(pairs)
    return header(b"PaxHeaders/x", flag, size=len(data)) + padded(data)


def gnu(flag: bytes, name: bytes) -> bytes:
    """A GNU long name (`L`) or long link name (`K`)."""
    return header(b"././@LongLink", flag, size=len(name) + 1, magic=b"ustar  \0") + padded(name + b"\0")


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def config_of(layers: list[bytes], **more: Any) -> bytes:
    return json.dumps(
        {
            "architecture": MACHINE,
            "os": "linux",
            "config": {"Entrypoint": ["/bin/app"], "Cmd": ["-v"], "Env": ["A=1", "B=x=y"], "User": "33", "WorkingDir": "/srv"},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            **more,
        }
    ).encode()


def docker_save_old(path: Path, layers: list[bytes], *, tags: list[str] | None = None, repeat_as_symlink: bool = False) -> Path:
    """What `docker save` wrote until version 24: a folder per layer, `<id>/layer.tar`, repeated layers as symlinks."""
    config = config_of(layers)
    out = b""
    names: list[str] = []
    seen: dict[str, str] = {}
    for number, layer in enumerate(layers):
        ident = hashlib.sha256(b"%d" % number + layer).hexdigest()
        name = f"{ident}/layer.tar"
        out += folder(f"{ident}/".encode()) + file(f"{ident}/VERSION".encode(), b"1.0")
        first = seen.get(digest(layer))
        if repeat_as_symlink and first:
            out += pax([(b"linkpath", f"../{first}".encode())]) + symlink(name.encode(), b"x")
        else:
            out += file(name.encode(), layer)
            seen[digest(layer)] = name
        names.append(name)
    ident = hashlib.sha256(config).hexdigest()
    out += file(f"{ident}.json".encode(), config)
    saved = [{"Config": f"{ident}.json", "RepoTags": tags or ["app:1"], "Layers": names}]
    path.write_bytes(out + file(b"manifest.json", json.dumps(saved).encode()) + END)
    return path


def docker_save_new(path: Path, layers: list[bytes]) -> Path:
    """What `docker save` writes since version 25: an OCI layout's blobs, and manifest.json beside index.json."""
    blobs, manifest = image_blobs(layers, fold=lambda data: data)
    config = json.loads(blobs[manifest])["config"]["digest"]
    out = folder(b"blobs/") + folder(b"blobs/sha256/")
    for name, data in blobs.items():
        out += file(f"blobs/sha256/{name[7:]}".encode(), data)
    index = index_of([descriptor(blobs[manifest], TYPE + "manifest.v1+json", name="1")])
    saved = [{"Config": f"blobs/sha256/{config[7:]}", "RepoTags": ["app:1"], "Layers": [f"blobs/sha256/{digest(x)[7:]}" for x in layers]}]
    out += file(b"index.json", index) + file(b"manifest.json", json.dumps(saved).encode())
    path.write_bytes(out + file(b"oci-layout", b'{"imageLayoutVersion": "1.0.0"}') + END)
    return path


def descriptor(data: bytes, media: str, *, name: str = "", **more: Any) -> dict[str, Any]:
    noted = {"annotations": {"org.opencontainers.image.ref.name": name}} if name else {}
    return {"mediaType": media, "digest": digest(data), "size": len(data), **noted, **more}


def index_of(manifests: list[dict[str, Any]], **more: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "mediaType": TYPE + "index.v1+json", "manifests": manifests, **more}).encode()


def zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def image_blobs(layers: list[bytes], *, fold: Any = gzip.compress, config: bytes | None = None) -> tuple[dict[str, bytes], str]:
    """Blobs by digest, and the digest of the manifest."""
    config = config if config is not None else config_of(layers)
    folded = [fold(layer) for layer in layers]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": TYPE + "manifest.v1+json",
            "config": descriptor(config, TYPE + "config.v1+json"),
            "layers": [descriptor(layer, TYPE + "layer.v1.tar") for layer in folded],
        }
    ).encode()
    return {digest(data): data for data in (config, manifest, *folded)}, digest(manifest)


def write_layout(path: Path, blobs: dict[str, bytes], index: bytes) -> Path:
    (path / "blobs" / "sha256").mkdir(parents=True)
    for name, data in blobs.items():
        (path / "blobs" / "sha256" / name[7:]).write_bytes(data)
    (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (path / "index.json").write_bytes(index)
    return path


def oci_layout(path: Path, layers: list[bytes], *, fold: Any = gzip.compress, name: str = "v1") -> Path:
    blobs, manifest = image_blobs(layers, fold=fold)
    return write_layout(path, blobs, index_of([descriptor(blobs[manifest], TYPE + "manifest.v1+json", name=name)]))
