"""Writes seal.json anew: python -m tests.vectors.make_seal. Only for a new version of the format."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from stele.model import spec as specs
from stele.model.tree import Node, Tree
from stele.seal import release as sealing
from tests.trees import TIME, Held, MemorySink, file, folder, link

SPEC = "stele: 0\nname: tiny\ncommand: [/hello, world]\nsettings:\n  - path: /etc/hello.conf\n    content: greeting=hi\n"


def main() -> None:
    held = Held()
    first = file(b"hello", b"#!/bin/sh\necho hello\n", held, mode=0o755, xattrs=((b"user.note", b"v0"),))
    nodes = [folder(b""), folder(b"etc"), folder(b"\xff dir", mode=0o1777, uid=33, gid=33), first, link(b"hello-again", first)]
    nodes += [file(b"etc/hello.conf", b"greeting=hi", held), file(b"etc/data", b"0123456789abcdef" * 400, held)]
    nodes.append(Node(path=b"etc/link", kind="symlink", mode=0o777, uid=0, gid=0, mtime=TIME, target=b"../hello"))
    tree = Tree.build(nodes)
    sink = MemorySink()
    sealed = sealing.seal(tree, held, specs.parse_yaml(SPEC.encode()), sink, compression="none")
    vector = {
        "spec": SPEC,
        "tree": tree.encode().decode("ascii"),
        "contents": sorted(base64.b64encode(item).decode() for item in held.data.values()),
        "expect": {
            "tree": tree.digest(),
            "config": sealed.config.decode(),
            "manifest": sealed.manifest.decode(),
            "release": sealed.release.digest,
            "image_beginnings": {s.name: base64.b64encode(sink.images[s.image][:8192]).decode() for s in sealed.release.strata},
        },
    }
    Path(__file__).with_name("seal.json").write_text(json.dumps(vector, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
