"""The written rules that make one tree of any source: times, owners, xattrs, what is left out (docs/spec/sources.md)."""

from __future__ import annotations

from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

from stele.model.names import MAX_ID, MAX_TIME, MAX_XATTR, doubtful, name_fault
from stele.model.tree import Node, Tree, parent, quote
from stele.trust.errors import SteleError

if TYPE_CHECKING:
    from stele.seal.inode import Inode, Notes

MOUNT_POINTS = (b"dev", b"proc", b"sys", b"run")  # mounted over at run time; their content is not sealed
MAX_INSTANCE_ID = 65_535  # an instance's block of ids
CAPABILITY = b"security.capability"
_WHITEOUT = b".wh."  # names that begin so mean deletion in OCI layers
_DEVICES = frozenset({"char", "block"})
_fields = attrgetter("kind", "uid", "gid")
_VFS_CAP_2 = 0x0200_0000
_VFS_CAP_3 = 0x0300_0000


def folder_owner(uid: int, owner: int) -> int:
    """An id found in a folder whose own id is `owner`: the sealing person's is root's in the release."""
    return 0 if uid == owner else uid


def is_kept_xattr(name: bytes) -> bool:
    """Whether an xattr is content: file capabilities and user.*, but not the markers of overlay file systems."""
    return name == CAPABILITY or (name.startswith(b"user.") and not name.startswith((b"user.overlay.", b"user.fuseoverlayfs.")))


def kept_xattrs(path: bytes, raw: dict[bytes, bytes], notes: Notes) -> dict[bytes, bytes]:
    """The xattrs that are sealed, in the spelling in which they are sealed.

    Raises:
        SteleError: `seal.bad-xattr`.
    """
    out: dict[bytes, bytes] = {}
    for name, value in raw.items():
        if not is_kept_xattr(name):
            notes.add(f"xattr {quote(name)[:100]} left out", path)
            continue
        if len(name) > 255 or len(value) > MAX_XATTR or b"\0" in name or name == b"user.":
            raise SteleError(
                f"/{quote(path)[:300]} has an xattr whose name or value Linux cannot hold",
                remedy="remove the attribute from the source",
                code="seal.bad-xattr",
            )
        if name == CAPABILITY:
            capability = _capability(value)
            if not capability:
                notes.add("malformed file capabilities left out", path)
                continue
            out[name] = capability
        else:
            out[name] = value
    return out


def _capability(value: bytes) -> bytes:
    """File capabilities in revision 2 (Linux, struct vfs_cap_data): revision 3 adds the root id of a user namespace."""
    magic = int.from_bytes(value[:4], "little")
    revision, flags = magic & 0xFF00_0000, magic & 0x00FF_FFFF
    if flags in {0, 1} and ((revision == _VFS_CAP_2 and len(value) == 20) or (revision == _VFS_CAP_3 and len(value) == 24)):
        return (_VFS_CAP_2 | flags).to_bytes(4, "little") + value[4:20]
    return b""


def tree_of(root: Inode, *, time: int, notes: Notes, data: bool = False) -> Tree:
    """The tree of what was read from a source, by the rules.

    Args:
        root: the root directory; its mount points are emptied, but for those of a data set.
        time: modification time of every node, seconds since 1970 (see docs/spec/sources.md for the exception).
        notes: receives what was left out.
        data: whether it is a data set, in which nothing is mounted.

    Raises:
        SteleError: `seal.device-node`, `seal.reserved-name`, `seal.bad-name`, `seal.bad-mount-point`, `seal.bad-owner`.
    """
    from stele.seal.inode import walk  # which who only asks for a rule need not load

    if not data:
        _empty_mount_points(root, notes)
    found = sorted(walk(root), key=itemgetter(0))
    for path, inode in found if _is_doubtful(found) else ():
        _refuse(path, inode)
        if inode.uid > MAX_INSTANCE_ID or inode.gid > MAX_INSTANCE_ID:
            notes.add(f"owners above {MAX_INSTANCE_ID}, which no instance has (there they are nobody's)", path)
    times = _kept_times(dict(found), time)
    first_names: dict[Inode, bytes] = {}
    nodes = []
    for path, inode in found:
        first = first_names.setdefault(inode, path)
        nodes.append(_node(path, inode, None if first == path else first, times.get(inode, time)))
    return Tree.build(nodes)


def _node(path: bytes, inode: Inode, link: bytes | None, mtime: int) -> Node:
    if not path:
        # whoever unpacked or mounted it decided the root's own mode and owner: mktemp says 0700, most archives say nothing
        return Node(path=b"", kind="dir", mode=0o755, uid=0, gid=0, mtime=mtime)
    return Node(
        path=path,
        kind=inode.kind,
        mode=0o777 if inode.kind == "symlink" else inode.mode & 0o7777,
        uid=inode.uid,
        gid=inode.gid,
        mtime=mtime,
        size=inode.size,
        sha256=inode.sha256,
        target=inode.target,
        link=link,
        xattrs=tuple(sorted(inode.xattrs.items())) if inode.xattrs else (),
    )


def _empty_mount_points(root: Inode, notes: Notes) -> None:
    for name in MOUNT_POINTS:
        inode = root.children.get(name)
        if inode is None:
            continue
        if inode.kind != "dir":
            if name == b"run":
                continue  # some images keep a program of that name there
            raise SteleError(
                f"/{name.decode()} is a {inode.kind}, but an instance needs a directory there to mount on",
                remedy=f"make /{name.decode()} an empty directory in the source, or leave it out",
                code="seal.bad-mount-point",
            )
        if inode.children:
            notes.add(f"content of /{name.decode()} left out (mounted afresh at run time)")
            inode.children = {}


def _is_doubtful(found: list[tuple[bytes, Inode]]) -> bool:
    """Whether something may have to be refused, or told of, as a look at all at once tells."""
    paths = [path for path, _ in found if path]
    if doubtful(paths) or b"/" + _WHITEOUT in b"/" + b"/".join(paths):
        return True
    ids = range(MAX_INSTANCE_ID + 1)
    return any(kind in _DEVICES or uid not in ids or gid not in ids for kind, uid, gid in {_fields(inode) for _, inode in found})


def _refuse(path: bytes, inode: Inode) -> None:
    if inode.kind in _DEVICES:
        where = "" if path.startswith(b"dev/") else " outside /dev"
        reason = f"/{quote(path)[:300]} is a {inode.kind} device ({inode.rdev[0]}:{inode.rdev[1]}){where}"
        if inode.kind == "char" and inode.rdev == (0, 0):
            reason += ": an overlay's mark of a deleted file, so this is one layer of a container and not its whole tree"
        raise SteleError(
            reason,
            remedy="remove it from the source (instances get their own /dev); of an overlay, seal the merged folder",
            code="seal.device-node",
        )
    if not path:
        return
    fault = name_fault(path)
    if fault:
        raise SteleError(f"the path /{quote(path)[:300]} {fault}", remedy="rename it in the source", code="seal.bad-name")
    if path.rpartition(b"/")[2].startswith(_WHITEOUT):
        raise SteleError(
            f"/{quote(path)[:300]}: names that begin with '.wh.' mean deletion in OCI layers and cannot be sealed",
            remedy="rename it in the source; of an AUFS or OCI layer, seal the whole image instead",
            code="seal.reserved-name",
        )
    if not (0 <= inode.uid <= MAX_ID and 0 <= inode.gid <= MAX_ID):
        raise SteleError(
            f"/{quote(path)[:300]} is owned by {inode.uid}:{inode.gid}, which Linux cannot express",
            remedy="correct the owner in the source",
            code="seal.bad-owner",
        )


def source_of(path: bytes) -> bytes | None:
    """The .py that a .pyc at `path` is compiled from (PEP 3147, and the older place beside it), or None."""
    folder, _, name = path.rpartition(b"/")
    if not name.endswith(b".pyc"):
        return None
    if folder.rpartition(b"/")[2] == b"__pycache__":
        stem, _, rest = name.partition(b".")
        if not stem or rest.count(b".") not in {1, 2}:
            return None
        above = parent(folder)
        return (above + b"/" if above else b"") + stem + b".py"
    return path[:-1]


def _kept_times(by_path: dict[bytes, Inode], time: int) -> dict[Inode, int]:
    """Times of Python sources that differ from `time`, so that each cached .pyc stays as valid or stale as it was."""
    recorded: dict[Inode, set[int]] = {}
    for path, inode in by_path.items():
        if inode.compiled is None:
            continue
        source = by_path.get(source_of(path) or path)
        if source is not None and source is not inode and source.kind == "file" and inode.compiled[1] == source.size & 0xFFFF_FFFF:
            recorded.setdefault(source, set()).add(inode.compiled[0])
    out: dict[Inode, int] = {}
    for source, mtimes in recorded.items():
        if source.mtime in mtimes and 0 <= source.mtime <= MAX_TIME:
            out[source] = source.mtime
        elif time & 0xFFFF_FFFF in mtimes:
            # a stale .pyc must not come to life because its time happens to be the release's
            out[source] = next(later for later in range(time + 1, time + 2 + len(mtimes)) if later & 0xFFFF_FFFF not in mtimes)
    return out
