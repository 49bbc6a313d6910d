#!/usr/bin/env python3
"""Check a Stele proof (docs/spec/proof.md, version 2) with nothing but this file, Python 3.11 or later, and `cryptography`.

    python3 stele_verify.py PROOF TRUST_KEYS

Exit code 0: the proof holds, and what it says is printed. 1: it does not hold, and why. It shares no code with Stele: it is the second
implementation of the specification, which also says what a proof rests on. RFC 3161 timestamps are not checked here (openssl ts does).
"""
import base64, hashlib, json, re, sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

EMPTY = bytes(32)  # the hash of a part of a map that holds nothing
HIGH = 1 << 255  # the first bit of a key in a map: 0 of a workload, 1 of a release that ran
ED25519, COSIGNATURE, ML_DSA_44 = 1, 4, 6
LENGTHS = {ED25519: (32, 64), COSIGNATURE: (32, 72), ML_DSA_44: (1312, 2428)}  # bytes of a key, of a signature line

sha = lambda *parts: hashlib.sha256(b"".join(parts)).digest()
digest = lambda data: "sha256:" + hashlib.sha256(data).hexdigest()
utf8 = lambda text: text.encode("utf-8", "surrogatepass")
unhex = lambda texts: [bytes.fromhex(text) for text in texts]
field = lambda value, key: value.get(key) if isinstance(value, dict) else None
canonical = lambda value: json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")

class Refused(Exception):
    def __init__(self, reason, code="prove.invalid"):
        super().__init__(reason)
        self.code = code

def need(holds, reason, code="prove.invalid"):
    if not holds:
        raise Refused(reason, code)

# ---- spelling (docs/spec/canonical.md) and shapes ----

def pairs(items):
    if len(dict(items)) != len(items):
        raise ValueError("a key appears twice")
    return dict(items)

def checked(value, depth=0):
    """The value, if canonical JSON can spell it."""
    inner = [*value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    if depth > 64 or isinstance(value, float) or (isinstance(value, int) and abs(value) >= 1 << 63):
        raise ValueError("no such value")
    for item in inner:
        checked(item, depth + 1)
    return value

def parse(data, code="prove.invalid"):
    """The value of canonical JSON; every other spelling is refused."""
    try:
        value = checked(json.loads(data.decode("ascii"), object_pairs_hook=pairs))
    except (ValueError, RecursionError) as error:
        raise Refused("not canonical JSON", code) from error
    need(canonical(value) == data, "not canonical JSON", code)
    return value

def unbase64(text, code="trust.bad-note"):
    try:
        raw = base64.b64decode(text.encode("ascii"), validate=True)
    except ValueError as error:
        raise Refused("bad base64", code) from error
    need(base64.b64encode(raw).decode() == text, "another spelling of base64", code)
    return raw

def fits(value, shape):
    """A shape is a type, a list of one shape, a dict of fields (these and no others), or a function that says yes or no."""
    if isinstance(shape, dict):
        return isinstance(value, dict) and value.keys() == shape.keys() and all(fits(value[key], shape[key]) for key in shape)
    if isinstance(shape, list):
        return isinstance(value, list) and all(fits(item, shape[0]) for item in value)
    return isinstance(value, shape) if isinstance(shape, type) else shape(value)

number = lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0
hexes = lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None
path = lambda value: fits(value, [hexes]) and len(value) <= 256
optional = lambda shape: lambda value: value is None or fits(value, shape)
each = lambda name, shape: lambda value: isinstance(value, dict) and all(name(key) and fits(item, shape) for key, item in value.items())

ROW = {"workload": str, "count": number, "head": str, "state": str}
RAN = {"workload": str, "release": str, "seq": number}
LIVES = each(lambda key: True, {"instance": str, "release": str, "since_ns": int})
FACTS = {"active_release": str, "active_instance": str, "active_since_ns": int, "running": LIVES, "frozen": LIVES, "good": str}
SEALED = {"sealed": each(lambda key: re.fullmatch("[a-z][a-z0-9_]{0,63}", key), hexes)}
ENTRY = {"v": number, "workload": str, "seq": number, "prev": str, "kind": str, "time_ns": number, "actor": str, "data": dict, **SEALED}
EPOCH = {"behind_ns": number, "covers": number, "map": number, "map_root": hexes, "map_size": number, "since": number}
ITEM = {"index": number, "entry": str, "path": path}
CLAIMS = {
    "state": {"kind": str, "workload": str, "at_ns": number},
    "history": {"kind": str, "workload": str, "from_ns": number, "until_ns": number},
    "never-ran": {"kind": str, "workload": str, "release": str, "at_ns": number},
    "workloads": {"kind": str, "at_ns": number},
}
PROOF = {
    "format": str, "form": lambda value: value in ("light", "chain", "log"), "sum": str, "log": [str], "roots": [str], "entries": [ITEM],
    "claim": lambda value: isinstance(value, dict) and str(value.get("kind")) in CLAIMS and fits(value, CLAIMS[str(value["kind"])]),
    "heads": [{"checkpoint": str, "timestamps": [str], "consistency": path, **ITEM}],
    "places": [{"count": number, "path": path, "other": optional(dict)}],
    "start": optional({"head": str, "facts": dict}),
    "absent": optional({"path": path, "other": optional(dict)}),
    "maps": [{"leaves": [ROW], "rest": hexes}],
    "releases": [{"manifest": str, "config": str, "statement": str, "signatures": [str]}],
    "openings": [{"index": number, "field": str, "salt": hexes, "value": lambda value: True}],
}

def entry_of(text):
    """A well-formed entry of the log (docs/spec/event.md)."""
    need(text.isascii(), "an entry is malformed")
    entry = parse(text.encode())
    need(fits(entry, ENTRY) and entry["v"] == 1 and entry["sealed"].keys().isdisjoint(entry["data"]), "an entry is malformed")
    need(entry["kind"] == "epoch" or entry["time_ns"] < 1 << 62, "an entry is stamped too far ahead")
    return entry

# ---- whom to trust (docs/spec/trust-keys.md), and who signed a checkpoint (C2SP signed-note, tlog-cosignature) ----

def trust_of(data):
    """Ledger keys and witness keys, {(name, id): (type, key)}, and release keys."""
    lines, found = data.decode("ascii", "replace").split("\n"), {"ledger": {}, "witness": {}, "release": []}
    need(lines[0] == "stele-trust v1" and lines[-1] == "" and len({*lines}) == len(lines), "not a trust file", "trust.bad-trust-file")
    for kind, *words in (line.split(" ") for line in lines[1:-1]):
        need(kind in (*found, "group", "quorum", "tsa"), f"{kind}: not a line for this verifier, which takes keys", "trust.bad-trust-file")
        if kind == "release":
            found[kind].append(serialization.load_der_public_key(unbase64(words[-1])))
        elif kind in found:
            name, identity, key = [*words[-1].split("+", 2), "", ""][:3]
            raw = unbase64(key)
            known = raw and len(raw) == 1 + LENGTHS.get(raw[0], (0,))[0] and sha(name.encode(), b"\n", raw)[:4].hex() == identity
            need(known, "not a key", "trust.bad-note")
            found[kind][name, bytes.fromhex(identity)] = (raw[0], raw[1:])
    need(any(kind == ED25519 for kind, _ in found["ledger"].values()), "no key of a ledger", "prove.no-keys")
    return found.values()

def signature_holds(kind, name, key, body, checkpoint, blob):
    (origin, size, root), stamp = checkpoint, b"" if kind == ED25519 else blob[:8]
    seconds, public = int.from_bytes(stamp, "big"), mldsa.MLDSA44PublicKey if kind == ML_DSA_44 else ed25519.Ed25519PublicKey
    message = body if kind == ED25519 else b"cosignature/v1\ntime %d\n" % seconds + body
    if kind == ML_DSA_44:
        named = lambda text: bytes([len(text)]) + text.encode()
        message = b"subtree/v1\n\0" + named(name) + stamp + named(origin) + bytes(8) + size.to_bytes(8, "big") + root
    try:
        public.from_public_bytes(key).verify(blob[len(stamp):], message)
    except (InvalidSignature, ValueError):
        return False
    return len(blob) == LENGTHS[kind][1] and seconds < 1 << 63

def open_note(note, ledgers, witnesses):
    """Origin, size and root of a checkpoint, and which witnesses saw it: {name: seconds}."""
    bad, (body, gap, tail) = "trust.bad-note", note.rpartition(b"\n\n")
    need(gap and tail.endswith(b"\n") and len(note) <= 1 << 17, "not a signed note", bad)
    body, text = body + b"\n", (body + b"\n").decode("ascii", "replace").split("\n")
    try:
        signed = [line.split(" ") for line in tail[:-1].decode("utf-8").split("\n")]
    except UnicodeDecodeError as error:
        raise Refused("not UTF-8", bad) from error
    for parts in signed:
        need(len(parts) == 3 and parts[0] == "\u2014" and parts[1], "not a signature line", bad)
        need(not any(char.isspace() or char == "+" or ord(char) < 32 for char in parts[1]), "not a name", bad)
        parts[2] = unbase64(parts[2])
        need(len(parts[2]) >= 5, "a signature is cut off", bad)
    need(body.isascii() and re.fullmatch(rb"[!-*,-~]{1,200}\n(0|[1-9][0-9]{0,17})\n.*\n", body), "not a checkpoint", bad)
    checkpoint, held, seen = (text[0], int(text[1]), unbase64(text[2])), {}, {}
    need(len(checkpoint[2]) == 32, "the root is not 32 bytes", bad)
    for _, name, blob in signed:
        which = (name, blob[:4])
        need(which not in held, "two signatures by one key", bad)
        kind, key = {**witnesses, **ledgers}.get(which, (0, b""))
        if kind:
            need(which not in ledgers or name == checkpoint[0], "the checkpoint is of another log than its signer", bad)
            need(signature_holds(kind, name, key, body, checkpoint, blob[4:]), "a signature does not hold", "trust.bad-signature")
            held[which] = kind
            if which not in ledgers and kind != ED25519:
                seen[name] = int.from_bytes(blob[4:12], "big")
    own = {kind for which, kind in held.items() if which in ledgers}
    need(ED25519 in own, "signed by nobody whom you trust", "trust.unknown-signer")
    twofold = any(name == checkpoint[0] and kind == ML_DSA_44 for (name, _), (kind, _) in ledgers.items())
    need(ML_DSA_44 in own or not twofold, "the ML-DSA-44 signature is missing", "trust.missing-signature")
    return checkpoint, seen

# ---- trees (RFC 6962, section 2.1) ----

split = lambda size: 1 << (size - 1).bit_length() - 1  # the largest power of two smaller than it

def tree(leaves):
    half = split(len(leaves)) if len(leaves) > 1 else 0
    return sha(b"\1", tree(leaves[:half]), tree(leaves[half:])) if half else leaves[0]

def included(index, size, leaf, siblings):
    """The root to which an audit path leads."""
    need(index < size and bool(siblings) == (size > 1), "an audit path does not fit")
    if size == 1:
        return leaf
    if index < split(size):
        return sha(b"\1", included(index, split(size), leaf, siblings[:-1]), siblings[-1])
    return sha(b"\1", siblings[-1], included(index - split(size), size - split(size), leaf, siblings[:-1]))

def consistent(old, new, siblings, root):
    """Both roots to which a consistency proof leads. `root`: the old one, None within it."""
    need(siblings if old != new else len(siblings) == (root is None), "a consistency proof does not fit")
    if old == new:
        return [root or siblings[0]] * 2
    if old <= split(new):
        first, second = consistent(old, split(new), siblings[:-1], root)
        return [first, sha(b"\1", second, siblings[-1])]
    return [sha(b"\1", siblings[-1], part) for part in consistent(old - split(new), new - split(new), siblings[:-1], None)]

# ---- epoch maps (docs/spec/epoch-map.md) ----

workload_key = lambda workload: int.from_bytes(sha(utf8(workload)), "big") & ~HIGH
ran_key = lambda workload, release: int.from_bytes(sha(sha(utf8(workload)), utf8(release)), "big") | HIGH

def leaf(row):
    """Key and hash of a leaf."""
    need(fits(row, ROW) or fits(row, RAN), "a leaf of a map is malformed")
    key = ran_key(row["workload"], row["release"]) if "release" in row else workload_key(row["workload"])
    return key, sha(b"\0", canonical(row))

def map_root(key, siblings, end):
    """The root of the map in which the path of `key` ends in `end`."""
    for depth in range(len(siblings) - 1, -1, -1):
        end = sha(b"\1", siblings[depth], end) if key >> (255 - depth) & 1 else sha(b"\1", end, siblings[depth])
    return end.hex()

def check_absent(key, said, head):
    low, (other, end) = 256 - len(said["path"]), leaf(said["other"]) if said["other"] is not None else (None, EMPTY)
    need(other is None or (other != key and other >> low == key >> low), "another leaf does not show that something is absent")
    need(map_root(key, unhex(said["path"]), end) == head["map_root"], "it does not show that something is absent")

def map_of(leaves, depth=0):
    """The hash of the map of (key, hash), sorted."""
    if len(leaves) < 2:
        return leaves[0][1] if leaves else EMPTY
    left = [item for item in leaves if not item[0] >> (255 - depth) & 1]
    return sha(b"\1", map_of(left, depth + 1), map_of(leaves[len(left):], depth + 1))

def check_half(rows, rest, head):
    """These are all workloads of a head's map, the other half of which has the hash `rest`."""
    leaves, rest = [leaf(row) for row in rows], bytes.fromhex(rest)
    need(leaves == sorted(dict(leaves).items()), "the leaves of a map are not sorted")
    root = map_of(leaves, 1) if rest == EMPTY and len(leaves) < 2 else sha(b"\1", map_of(leaves, 1), rest)
    need(root.hex() == head["map_root"] and len(rows) == head["map_size"], "the workloads are not those of the signed map")

# ---- heads ----

def check_heads(proof, ledgers, witnesses):
    """Every head is signed, has an epoch in its tree, and continues the one before. Adds to each what it says."""
    heads, bare = proof["heads"], proof["form"] == "log"
    for head, old in zip(heads, [None, *heads]):
        (head["origin"], size, root), head["seen"] = open_note(utf8(head["checkpoint"]), ledgers, witnesses)
        entry, siblings = entry_of(head["entry"]), unhex(head["path"])
        need(entry["kind"] == "epoch" and entry["workload"] == "" and fits(entry["data"], EPOCH), "what should be an epoch is not")
        head.update(entry["data"], size=size, root=root, time_ns=entry["time_ns"])
        need((head["covers"], head["map"]) == (head["index"], 2) and head["since"] <= head["index"], "an epoch does not cover the log")
        inside = not siblings if bare else included(head["index"], size, sha(b"\0", head["entry"].encode()), siblings) == root
        need(inside and not (head["consistency"] and (bare or old is None)), "an epoch is not where it should be in the signed log")
        if old is not None:
            ordered = old["index"] < head["index"] and old["time_ns"] < head["time_ns"] and old["index"] < head["since"]
            need(ordered and old["size"] <= size and old["origin"] == head["origin"], "heads are not in order, or of two ledgers")
            roots = [old["root"], root]
            need(bare or consistent(old["size"], size, unhex(head["consistency"]), roots[0]) == roots, "the ledger was forked")

def around(claim, heads, at_ns):
    """Which heads stand before (None: there is none) and after an instant, and whether all of *after* counts."""
    after = next((place for place, head in enumerate(heads) if head["time_ns"] >= at_ns), None)
    need(after is not None, "the ledger in this proof ends before the instant", "prove.not-covered")
    exact = heads[after]["time_ns"] == at_ns or claim["kind"] == "never-ran"
    if exact or heads[after]["since"] == 0:
        return None, after, exact
    need(after > 0 and heads[after - 1]["index"] == heads[after]["since"] - 1, "these are not the two heads around the instant")
    return after - 1, after, False

# ---- what entries make ----

NOTHING = {"active_release": "", "active_instance": "", "active_since_ns": 0, "running": {}, "frozen": {}, "good": ""}

text = lambda entry, key: entry["data"][key] if isinstance(entry["data"].get(key), str) else ""
started = lambda entry: text(entry, "release") if entry["kind"] == "instance.starting" else ""

def advance(facts, entry):
    """The facts after one more entry."""
    kind, instance, release = entry["kind"], text(entry, "instance"), text(entry, "release")
    live, facts = {"instance": instance, "release": release, "since_ns": entry["time_ns"]}, dict(facts)
    if kind == "instance.starting":
        facts["running"] = {**facts["running"], instance: live}
    elif kind == "instance.active":
        facts |= {"active_release": release, "active_instance": instance, "active_since_ns": entry["time_ns"]}
    elif kind in ("instance.stopped", "instance.failed", "instance.frozen"):
        facts["running"] = {name: item for name, item in facts["running"].items() if name != instance}
        if kind == "instance.frozen":
            facts["frozen"] = {**facts["frozen"], text(entry, "incident"): live}
        if instance == facts["active_instance"]:
            kept = "" if kind == "instance.stopped" else facts["active_release"]
            facts |= {"active_release": kept, "active_instance": "", "active_since_ns": 0}
    elif kind == "quarantine.released":
        facts["frozen"] = {name: item for name, item in facts["frozen"].items() if name != text(entry, "incident")}
    elif kind == "deploy.confirmed":
        facts["good"] = release
    return facts

# ---- the evidence: entries and places in maps, or the whole log ----

def read_entries(proof):
    """The entries that a proof brings, each in the last head's tree: [(index, entry, digest)]."""
    last, found = proof["heads"][-1], []
    for item in proof["entries"]:
        path = item["index"], last["size"], sha(b"\0", utf8(item["entry"])), unhex(item["path"])
        need(included(*path) == last["root"], "an entry is not in the signed log")
        found.append((item["index"], entry_of(item["entry"]), digest(utf8(item["entry"]))))
    return found

def check_chain(proof, workload, bracket):
    """Where the workload stands in every map, and the entries that lead from one to the next: (first, facts before, entries, counts)."""
    heads, entries, counts = proof["heads"], read_entries(proof), [place["count"] for place in proof["places"]]
    need(len(counts) == len(heads) and counts == sorted(counts), "the maps do not count forward")
    first = counts[0] if proof["form"] == "light" and (bracket[0] is not None or bracket[2]) else 0
    start = proof["start"] or {"head": "", "facts": NOTHING}
    need((proof["start"] is None) == (first == 0) and fits(start["facts"], FACTS), "it begins elsewhere in the chain than it says")
    need(counts[-1] - first == len(entries), "entries are missing, or there are too many")
    facts, last, done, here = start["facts"], start["head"], first, -1
    for place, head in zip(proof["places"], heads):
        while done < place["count"]:
            before, (here, entry, itself) = here, entries[done - first]
            need((entry["workload"], entry["seq"], entry["prev"]) == (workload, done, last), "an entry does not continue the chain")
            need(before < here < head["index"], "an entry is not where the maps count it")
            facts, last, done = advance(facts, entry), itself, done + 1
        need(done - first == len(entries) or entries[done - first][0] > head["index"], "an entry is not where the maps count it")
        if place["count"] == 0:
            check_absent(workload_key(workload), place, head)
        else:
            key, end = leaf({"workload": workload, "count": done, "head": last, "state": digest(canonical(facts))})
            named = place["other"] is None and map_root(key, unhex(place["path"]), end) == head["map_root"]
            need(named, "a map does not say of the workload what its entries make")
    return first, start["facts"], entries, counts

def check_log(proof, workload):
    """Everything made anew from all entries: what `check_chain` gives, and the first entry of every workload."""
    heads, rows, ran, facts, first, mine, since, latest = proof["heads"], {}, {}, {}, {}, [], 0, -1
    need(len(proof["log"]) == heads[-1]["size"], "it does not bring the whole log")
    for index, line in enumerate(proof["log"]):
        entry, itself = entry_of(line), digest(line.encode())
        name, said = entry["workload"], entry["data"]
        if entry["kind"] == "epoch":
            need(fits(said, EPOCH) and (name, entry["actor"], entry["sealed"]) == ("", "ledger", {}), "what should be an epoch is not")
            truth = {"covers": index, "map": 2, "map_root": map_of(sorted(map(leaf, [*rows.values(), *ran.values()]))).hex(),
                     "map_size": len(rows), "since": since, "behind_ns": said["behind_ns"]}
            stamp = max(entry["time_ns"] - said["behind_ns"], latest + 1)
            need(said == truth and entry["time_ns"] == stamp >= said["behind_ns"], "an epoch does not commit to what precedes it")
            since = index + 1
        row = rows.get(name, {"count": 0, "head": ""})
        need((entry["seq"], entry["prev"]) == (row["count"], row["head"]), "an entry does not continue its chain")
        facts[name] = advance(facts.get(name, NOTHING), entry)
        rows[name] = {"workload": name, "count": row["count"] + 1, "head": itself, "state": digest(canonical(facts[name]))}
        if started(entry):
            ran.setdefault((name, started(entry)), {"workload": name, "release": started(entry), "seq": entry["seq"]})
        first.setdefault(name, (index, entry))
        latest = max(latest, entry["time_ns"])
        mine += [(index, entry, itself)] if name == workload else []
    for head in heads:
        need(head["index"] < head["size"] and proof["log"][head["index"]] == head["entry"], "a head's epoch is not the one of the log")
        need(tree([sha(b"\0", line.encode()) for line in proof["log"][: head["size"]]]) == head["root"], "entries do not lead to the root")
    return (0, NOTHING, mine, [sum(item[0] < head["index"] for item in mine) for head in heads]), first

# ---- the answers ----

def workloads_at(proof, first, bracket, at_ns):
    """All workloads at the instant. `first`: of the whole log, the first entry of each; None: the map's leaves tell."""
    heads, (before, after, exact) = proof["heads"], bracket
    floor, end = heads[before]["index"] if before is not None else -1, heads[after]["index"]
    if first is None:
        need(len(proof["maps"]) == len(heads), "it does not bring the map of each head")
        for said, head in zip(proof["maps"], heads):
            check_half(said["leaves"], said["rest"], head)
        names, old = ({row["workload"] for row in said["leaves"]} for said in (proof["maps"][after], proof["maps"][before or 0]))
        old, found = set() if before is None else old, read_entries(proof)
        new = {entry["workload"]: (at, entry) for at, entry, _ in found}
        need(old <= names and new.keys() == (set() if exact else names - old), "it does not bring the first entry of what was new")
        need(len(new) == len(found) and all(entry["seq"] == 0 and floor < at < end for at, entry in new.values()), "it is not a first one")
        first = {name: new.get(name, (-1, None)) for name in names}
    return sorted(name for name, (at, entry) in first.items()
                  if name and at < end and (exact or at < floor or at < 0 or entry["time_ns"] <= at_ns))

def at_instant(chain, bracket, at_ns):
    """How many entries count at an instant, and the facts then."""
    (first, facts, entries, counts), (before, after, exact) = chain, bracket
    count = counts[after] if exact else counts[before] if before is not None else 0
    while not exact and count < counts[after] and entries[count - first][1]["time_ns"] <= at_ns:
        count += 1
    for _, entry, _ in entries[: count - first]:
        facts = advance(facts, entry)
    return count, facts

def named_in(facts):
    live = [*facts["running"].values(), *facts["frozen"].values()]
    return {item["release"] for item in live} | {facts["active_release"] if facts["active_instance"] else ""}

def answer_of(claim, chain, brackets):
    """The answer about one workload, and the releases that it names."""
    _, _, entries, counts = chain
    if claim["kind"] == "never-ran":
        need(all(started(entry) != claim["release"] for _, entry, _ in entries), "the release was started")
        return {"exists": counts[-1] > 0, "entries": counts[-1], "ran": False}, set()
    if claim["kind"] == "state":
        count, facts = at_instant(chain, brackets[0], claim["at_ns"])
        return {"exists": count > 0, "entries": count, "state": facts}, named_in(facts)
    (begin, old), (end, new) = (at_instant(chain, bracket, claim[key]) for bracket, key in zip(brackets, ("from_ns", "until_ns")))
    between = [(at, entry) for at, entry, _ in entries if begin <= entry["seq"] < end]
    shown = [{"index": at, **{key: entry[key] for key in ("seq", "kind", "time_ns", "actor", "data", "sealed")}} for at, entry in between]
    named = named_in(old) | named_in(new) | {started(entry) for _, entry in between}
    return {"exists": end > 0, "from": old, "until": new, "between": shown}, named

def check_releases(found, named, workload, keys, light):
    """The releases that the answer names, and no others, each signed by a trusted key (docs/spec/signature.md)."""
    need(len(found) == len(named), "the releases that it brings are not those that the answer names")
    for release, name in zip(found, named):
        need(light == (not release["manifest"]) and light == (not release["config"]), "manifests come with all proofs but light ones")
        if not light:
            need(digest(utf8(release["manifest"])) == name, "the releases that it brings are not those that the answer names")
            manifest = parse(utf8(release["manifest"]))
            need(field(field(manifest, "annotations"), "dev.stele.workload") == workload, "a release is of another workload")
            need(field(field(manifest, "config"), "digest") == digest(utf8(release["config"])), "a config is not that of its manifest")
        signed = names_release(utf8(release["statement"]), name) and [
            key for key in keys for text in release["signatures"] if release_signed(key, utf8(release["statement"]), text)]
        need(signed and len(release["signatures"]) <= 16, "a release is not signed by a key that you trust")

def names_release(statement, name):
    """Whether an in-toto statement is about this release."""
    try:
        said = json.loads(statement.decode("utf-8"), object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return False
    types = ("https://in-toto.io/Statement/v1", "https://sigstore.dev/cosign/sign/v1")
    subjects = field(said, "subject") if isinstance(field(said, "subject"), list) and len(statement) <= 1 << 20 else []
    named = any(field(item, "digest") == {"sha256": name[7:]} for item in subjects)
    return named and re.fullmatch("sha256:[0-9a-f]{64}", name) and (said.get("_type"), said.get("predicateType")) == types

def release_signed(key, statement, signature):
    message = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(statement), statement)
    try:
        key.verify(unbase64(signature), message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, Refused):
        return False
    return True

def check_openings(openings, entries):
    """Private values are those that the entries commit to (docs/spec/sealed.md)."""
    places = [(opening["index"], opening["field"]) for opening in openings]
    need(places == sorted(set(places)), "openings are out of order")
    for opening in openings:
        sealed = {index: entry["sealed"] for index, entry, _ in entries}.get(opening["index"], {})
        told = b"stele-sealed-v1\n" + bytes.fromhex(opening["salt"]) + canonical([opening["field"], opening["value"]])
        need(sealed.get(opening["field"]) == hashlib.sha256(told).hexdigest(), "an opening is not what the entry commits to")

def verify(data, trust):
    """What a proof says: claim, form, answer, private values, and when witnesses saw its heads. Refused: it does not hold."""
    ledgers, witnesses, releases = trust_of(trust)
    need(len(data) <= 64 << 20 and data.endswith(b"\n"), "not a proof file")
    proof = parse(data[:-1], "trust.not-canonical")
    need(fits(proof, PROOF) and proof["format"] == "stele-proof v2" and 1 <= len(proof["heads"]) <= 4, "not the fields of a proof")
    claim, form, workload = proof["claim"], proof["form"], proof["claim"].get("workload")
    need((form != "chain" or workload is not None) and claim.get("from_ns", 0) <= claim.get("until_ns", 0), "no such claim in this form")
    brings = {key for key in ("places", "start", "entries", "absent", "maps", "log") if proof[key] not in ([], None)}
    must = {"log"} if form == "log" else {"maps"} if workload is None else {"absent"} if claim["kind"] == "never-ran" else set()
    may = set() if form == "log" else {"entries"} if workload is None else {"places", "start", "entries"}
    need(must <= brings <= must | may, "it does not bring what its claim needs, or more")
    need(digest(canonical({key: proof[key] for key in proof if key != "sum"})) == proof["sum"], "its sum does not fit: it was altered")
    check_heads(proof, ledgers, witnesses)
    chain, first = check_log(proof, workload) if form == "log" else (None, None)
    brackets = [around(claim, proof["heads"], claim[key]) for key in ("at_ns", "from_ns", "until_ns") if key in claim]
    need({*range(len(proof["heads"]))} == {place for bracket in brackets for place in bracket[:2]} - {None}, "it brings heads without need")
    if workload is None:
        answer, named, entries = {"workloads": workloads_at(proof, first, brackets[0], claim["at_ns"])}, set(), []
    else:
        chain = chain or check_chain(proof, workload, brackets[0])
        if proof["absent"] is not None:
            check_absent(ran_key(workload, claim["release"]), proof["absent"], proof["heads"][-1])
        (answer, named), entries = answer_of(claim, chain, brackets), chain[2]
    check_releases(proof["releases"], sorted(named - {""}), workload, releases, form == "light")
    check_openings(proof["openings"], entries)
    opened = [{key: opening[key] for key in ("index", "field", "value")} for opening in proof["openings"]]
    return {"claim": claim, "form": form, "answer": answer, "opened": opened, "seen": [head["seen"] for head in proof["heads"]]}

def main():
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        verdict = verify(*(open(name, "rb").read((64 << 20) + 1) for name in sys.argv[1:]))
    except Refused as error:
        sys.exit(f"REFUSED [{error.code}]: {error}")
    print(json.dumps(verdict, indent=1, sort_keys=True))

if __name__ == "__main__":
    main()
