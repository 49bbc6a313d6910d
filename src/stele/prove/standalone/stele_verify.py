#!/usr/bin/env python3
"""Check a Stele proof (docs/spec/proof.md, version 2) with nothing but this file, Python 3.11 or later, and `cryptography`.

    python3 stele_verify.py PROOF TRUST_KEYS

Exit code 0: the proof holds, and what it says is printed. 1: it does not hold, and why. It shares no code with Stele, but follows the
same specification, which says what a proof rests on. `Proof` checks, step by step: 1. the file is canonical JSON with the fields of a
proof, brings what its question needs, and its sum fits; 2. every head is signed by keys in TRUST_KEYS, has an epoch in its tree, and
continues the head before it; 3. they are the heads around the instants of the question; 4. the entries are in the signed log, and make
without a hole what the signed maps say (form `log`: all is made anew); 5. what should be absent is in no map, and all workloads, if they
are asked for, are all that the maps have; 6. the releases that the answer names are signed by release keys in TRUST_KEYS; 7. private
values are those that the entries commit to. It takes keys: a `root` line is refused. RFC 3161 timestamps decide nothing.
"""

import base64, hashlib, itertools, json, re, sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

EMPTY = bytes(32)  # the hash of a part of a map that holds nothing
HIGH = 1 << 255  # the first bit of a key in a map: 0 of a workload, 1 of a release that ran
ED25519, COSIGNATURE, ML_DSA_44 = 1, 4, 6
LENGTHS = {ED25519: (32, 0, 64), COSIGNATURE: (32, 8, 64), ML_DSA_44: (1312, 8, 2420)}  # bytes of a key, a time, a signature
BASE64 = "([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"  # in its one spelling
STATEMENT = ("https://in-toto.io/Statement/v1", "https://sigstore.dev/cosign/sign/v1")
sha = lambda *parts: hashlib.sha256(b"".join(parts)).digest()
leaf_hash = lambda text: sha(b"\0", utf8(text))
branch = lambda left, right: sha(b"\1", left, right)
digest = lambda data: "sha256:" + hashlib.sha256(data).hexdigest()
utf8 = lambda text: text.encode("utf-8", "surrogatepass")
unhex = lambda texts: [bytes.fromhex(text) for text in texts]
unbase64 = lambda text: base64.b64decode(text) if re.fullmatch(BASE64, text) else need(False, "not base64", "trust.bad-note")
field = lambda value, key: value.get(key) if isinstance(value, dict) else None
canonical = lambda value: json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")  # docs/spec/canonical.md
inner = lambda value: value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
depth = lambda value: max((1 + depth(item) for item in inner(value)), default=0)
pairs = lambda items: need(len(dict(items)) == len(items), "a key appears twice") or dict(items)
integer = lambda digits: int(digits) if abs(int(digits)) < 1 << 63 else digits  # what stays text is then spelled otherwise
# ---- trees (RFC 6962, section 2.1) and epoch maps (docs/spec/epoch-map.md)
split = lambda size: 1 << (size - 1).bit_length() - 1  # the largest power of two smaller than it
tree = lambda leaves: branch(tree(leaves[: split(len(leaves))]), tree(leaves[split(len(leaves)) :])) if leaves[1:] else leaves[0]
workload_key = lambda workload: int.from_bytes(sha(utf8(workload)), "big") & ~HIGH
ran_key = lambda workload, release: int.from_bytes(sha(sha(utf8(workload)), utf8(release)), "big") | HIGH
row_key = lambda row: ran_key(row["workload"], row["release"]) if "release" in row else workload_key(row["workload"])
leaf = lambda row: need(fits(row, (ROW, RAN)), "a leaf of a map is malformed") or (row_key(row), sha(b"\0", canonical(row)))
half = lambda index, size: (index, split(size)) if index < split(size) else (index - split(size), size - split(size))  # where a leaf is
lefts = lambda index, size: [*lefts(*half(index, size)), index >= split(size)] if size > 1 else []  # of its siblings, which are on the left
side = lambda leaves, place, bit: [item for item in leaves if item[0] >> (255 - place) & 1 == bit]
map_of = lambda leaves, place=0: branch(*(map_of(side(leaves, place, bit), place + 1) for bit in (0, 1))) if leaves[1:] else single(leaves)
single = lambda leaves: leaves[0][1] if leaves else EMPTY
map_root = lambda key, end, path: climb([end, *path[::-1]], [key >> (256 - place) & 1 for place in range(len(path), 0, -1)]).hex()
# ---- what entries make
NOTHING = {"active_release": "", "active_instance": "", "active_since_ns": 0, "running": {}, "frozen": {}, "good": ""}
beginning = lambda workload: {"workload": workload, "count": 0, "head": "", "facts": NOTHING}
row_of = lambda now: {key: now[key] for key in ("workload", "count", "head")} | {"state": digest(canonical(now["facts"]))}
word = lambda entry, key: entry["data"][key] if isinstance(entry["data"].get(key), str) else ""
started = lambda entry: word(entry, "release") if entry["kind"] == "instance.starting" else ""
lives = lambda facts: [*facts["running"].values(), *facts["frozen"].values()]
named_in = lambda facts: {live["release"] for live in lives(facts)} | ({facts["active_release"]} if facts["active_instance"] else set())
# ---- shapes: fields (these and no others), a list of one shape, a choice of shapes, a type, a function that says yes, or the value itself
FITS = {
    dict: lambda value, shape: type(value) is dict and value.keys() == shape.keys() and all(fits(value[key], shape[key]) for key in shape),
    list: lambda value, shape: type(value) is list and all(fits(item, shape[0]) for item in value),
    tuple: lambda value, shape: any(fits(value, one) for one in shape),
    type: lambda value, shape: type(value) is shape,
    type(sha): lambda value, shape: shape(value),
}
fits = lambda value, shape: FITS.get(type(shape), lambda value, shape: type(value) is type(shape) and value == shape)(value, shape)
number = lambda value: type(value) is int and value >= 0
hexes = lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)
path = lambda value: fits(value, [hexes]) and len(value) <= 256
each = lambda name, shape: lambda value: type(value) is dict and all(re.fullmatch(name, key) and fits(value[key], shape) for key in value)
ROW = {"workload": str, "count": number, "head": str, "state": str}
RAN = {"workload": str, "release": str, "seq": number}
LIVES = each("(?s:.*)", {"instance": str, "release": str, "since_ns": int})
FACTS = {"active_release": str, "active_instance": str, "active_since_ns": int, "running": LIVES, "frozen": LIVES, "good": str}
SEALED = each("[a-z][a-z0-9_]{0,63}", hexes)
ENTRY = {"v": 1, "workload": str, "seq": number, "prev": str, "kind": str, "time_ns": number, "actor": str, "data": dict, "sealed": SEALED}
EPOCH = {"behind_ns": number, "covers": number, "map": 2, "map_root": hexes, "map_size": number, "since": number}
ITEM = {"index": number, "entry": str, "path": path}
ABSENT = {"path": path, "other": (None, dict)}
ASKED = {"workload": str, "at_ns": number}
HISTORY = {"kind": "history", "workload": str, "from_ns": number, "until_ns": number}
CLAIM = (HISTORY, {"kind": "state", **ASKED}, {"kind": "never-ran", "release": str, **ASKED}, {"kind": "workloads", "at_ns": number})
PROOF = (
    {"format": "stele-proof v2", "form": ("light", "chain", "log"), "sum": str, "claim": CLAIM}
    | {"heads": [{"checkpoint": str, "timestamps": [str], "consistency": path, **ITEM}], "places": [{"count": number, **ABSENT}]}
    | {"start": (None, {"head": str, "facts": dict}), "entries": [ITEM], "absent": (None, ABSENT), "log": [str], "roots": [str]}
    | {"maps": [{"leaves": [ROW], "rest": hexes}], "releases": [{"manifest": str, "config": str, "statement": str, "signatures": [str]}]}
    | {"openings": [{"index": number, "field": str, "salt": hexes, "value": lambda value: True}]}
)


class Refused(ValueError):
    code = property(lambda self: self.args[1])


def need(holds, reason, code="prove.invalid"):
    if not holds:
        raise Refused(reason, code)


def holds(verify, *signed):
    try:
        verify(*signed)
    except InvalidSignature:
        return False
    return True


def parse(data, code="prove.invalid", strict=True):
    """The value of JSON; `strict`: of canonical JSON, every other spelling is refused."""
    try:
        value = json.loads(data.decode(), object_pairs_hook=pairs, parse_float=str, parse_constant=str, parse_int=integer)
        need(not strict or (depth(value) <= 64 and canonical(value) == data), "not canonical JSON")
    except (ValueError, RecursionError) as error:
        raise Refused(str(error.args[0]), code) from error
    return value


def entry_of(line, index):
    """A well-formed entry of the log (docs/spec/event.md), with its index and digest."""
    entry = parse(utf8(line))
    need(fits(entry, ENTRY) and entry["sealed"].keys().isdisjoint(entry["data"]), "an entry is malformed")
    need(entry["kind"] == "epoch" or entry["time_ns"] < 1 << 62, "an entry is stamped too far ahead")
    return {**entry, "index": index, "digest": digest(utf8(line))}


def key_of(vkey, *kinds):
    """A key of one of these types, in the spelling of C2SP signed-note: {(name, id): (type, key)}."""
    name, identity, text = [*vkey.split("+", 2), "", ""][:3]
    kind, key = int.from_bytes(unbase64(text)[:1], "big"), unbase64(text)[1:]
    proper = kind in kinds and len(key) == LENGTHS[kind][0] and re.fullmatch("[!-*,-~]{1,200}", name)
    need(proper and sha(name.encode(), b"\n", bytes([kind]), key)[:4].hex() == identity, "not a key", "trust.bad-note")
    return {(name, bytes.fromhex(identity)): (kind, key)}


def trust_of(data):
    """Keys of ledgers and witnesses, {(name, id): (type, key)}, and keys of releases."""
    lines, trust = data.decode("ascii", "replace").split("\n"), {"ledger": {}, "witness": {}, "release": []}
    need(lines[0] == "stele-trust v1" and lines[-1] == "" and len({*lines}) == len(lines), "not a trust file", "trust.bad-trust-file")
    for kind, _, rest in (line.partition(" ") for line in lines[1:-1]):
        need(kind in (*trust, "group", "quorum", "tsa"), f"{kind}: not a line for this verifier, which takes keys", "trust.bad-trust-file")
        if kind in ("ledger", "witness"):
            trust[kind] |= key_of(rest.split(" ")[-1], ML_DSA_44, ED25519 if kind == "ledger" else COSIGNATURE)
        elif kind in trust:
            trust[kind].append(serialization.load_der_public_key(unbase64(rest)))
    need(ED25519 in {kind for kind, _ in trust["ledger"].values()}, "no key of a ledger", "prove.no-keys")
    return trust


def climb(nodes, lefts):
    """The root above the first of the nodes; the others are the siblings on the way, from below, and whether each stands on the left."""
    need(len(nodes) == len(lefts) + 1, "an audit path does not fit")
    root, *siblings = nodes
    for sibling, left in zip(siblings, lefts):
        root = branch(sibling, root) if left else branch(root, sibling)
    return root


def advance(before, entry):
    """What is the case with a workload after its next entry."""
    continued = [entry[key] for key in ("workload", "seq", "prev")] == [before[key] for key in ("workload", "count", "head")]
    need(continued, "an entry does not continue the chain of its workload")
    kind, live = entry["kind"], {"instance": word(entry, "instance"), "release": word(entry, "release"), "since_ns": entry["time_ns"]}
    facts = before["facts"] | {"running": dict(before["facts"]["running"]), "frozen": dict(before["facts"]["frozen"])}
    if kind in ("instance.stopped", "instance.failed", "instance.frozen"):
        facts["running"].pop(live["instance"], None)
        if live["instance"] == facts["active_instance"]:
            kept = "" if kind == "instance.stopped" else facts["active_release"]
            facts |= {"active_release": kept, "active_instance": "", "active_since_ns": 0}
    if kind == "quarantine.released":
        facts["frozen"].pop(word(entry, "incident"), None)
    facts["running"] |= {live["instance"]: live} if kind == "instance.starting" else {}
    facts["frozen"] |= {word(entry, "incident"): live} if kind == "instance.frozen" else {}
    active = {f"active_{key}": item for key, item in live.items()}
    facts |= {"instance.active": active, "deploy.confirmed": {"good": live["release"]}}.get(kind, {})
    return {**before, "count": before["count"] + 1, "head": entry["digest"], "facts": facts}


class Head(dict):  # a signed checkpoint (C2SP signed-note, tlog-cosignature), an epoch under it, and what they say
    def open(self, ledgers, witnesses):
        """The checkpoint is signed as it must be. `seen`: which witnesses saw it, {name: seconds}."""
        (body, _, tail), held, self["seen"] = self["checkpoint"].rpartition("\n\n"), set(), {}
        lines = [re.fullmatch("\u2014 ([^\\s+\0-\x1f\ud800-\udfff]+) (.+)", line) for line in tail[:-1].split("\n")]
        said = re.fullmatch("([!-*,-~]{1,200})\n(0|[1-9][0-9]{0,17})\n([A-Za-z0-9+/]{43}=)", body)
        proper = len(utf8(self["checkpoint"])) <= 1 << 17 and tail[-1:] == "\n" and all(lines) and said
        need(proper and all(len(unbase64(line[2])) > 4 for line in lines), "not a signed checkpoint", "trust.bad-note")
        signatures = [((line[1], unbase64(line[2])[:4]), unbase64(line[2])[4:]) for line in lines]
        self.update(origin=said[1], size=int(said[2]), root=unbase64(said[3]))
        for which, signature in signatures:
            kind, key = {**witnesses, **ledgers}.get(which, (0, b""))
            need(which not in held, "two signatures by one key", "trust.bad-note")
            if kind:
                need(which not in ledgers or which[0] == said[1], "the checkpoint is of another log than its signer", "trust.bad-note")
                need(self.signed(kind, key, which[0], (body + "\n").encode(), signature), "a signature is false", "trust.bad-signature")
                held.add(which)
                self["seen"] |= {} if which in ledgers else {which[0]: int.from_bytes(signature[:8], "big")}
        own, wanted = {ledgers[which][0] for which in held & {*ledgers}}, {ledgers[which][0] for which in ledgers if which[0] == said[1]}
        need(ED25519 in own, "signed by nobody whom you trust", "trust.unknown-signer")
        need(ML_DSA_44 in own or ML_DSA_44 not in wanted, "the ML-DSA-44 signature is missing", "trust.missing-signature")

    def signed(self, kind, key, name, body, signature):
        time, message, named = signature[: LENGTHS[kind][1]], body, lambda text: bytes([len(text)]) + text.encode()
        if kind == COSIGNATURE:
            message = b"cosignature/v1\ntime %d\n" % int.from_bytes(time, "big") + body
        if kind == ML_DSA_44:
            message = (
                b"subtree/v1\n\0" + named(name) + time + named(self["origin"]) + bytes(8) + self["size"].to_bytes(8, "big") + self["root"]
            )
        public = (mldsa.MLDSA44PublicKey if kind == ML_DSA_44 else ed25519.Ed25519PublicKey).from_public_bytes(key)
        return len(signature) == sum(LENGTHS[kind][1:]) and time < b"\x80" and holds(public.verify, signature[len(time) :], message)

    def entry(self, item):
        """An entry that is in the signed tree."""
        root = climb([leaf_hash(item["entry"]), *unhex(item["path"])], lefts(item["index"], self["size"]))
        need(root == self["root"] and item["index"] < self["size"], "an entry is not where it should be in the signed log")
        return entry_of(item["entry"], item["index"])

    def continues(self, old, siblings):
        """Whether the tree begins with the tree of an older head, by a consistency proof."""
        size, root = old["size"], old["root"]
        if size == self["size"]:
            return root == self["root"] and not siblings
        level = (size & -size).bit_length() - 1  # of the last whole subtree of the old tree: the way begins there
        nodes, sides = siblings if size & (size - 1) else [root, *siblings], lefts(size - 1, self["size"])[level:]
        inside = [node for node, left in zip(nodes[1:], sides) if left]
        return climb(nodes, sides) == self["root"] and climb([*nodes[:1], *inside], [True] * len(inside)) == root

    def check_absent(self, key, said):
        low, (other, end) = 256 - len(said["path"]), leaf(said["other"]) if said["other"] is not None else (None, EMPTY)
        need(other is None or (other != key and other >> low == key >> low), "another leaf does not show that something is absent")
        need(map_root(key, end, unhex(said["path"])) == self["map_root"], "it does not show that something is absent")


class Proof:  # its methods are the steps of the check
    def __init__(self, data, trust):
        """1: the file. Its fields are attributes from here on."""
        self.trust, parts = trust_of(trust), ("places", "start", "entries", "absent", "maps", "log")
        need(len(data) <= 64 << 20 and data.endswith(b"\n"), "not a proof file")
        fields = parse(data[:-1], "trust.not-canonical")
        need(fits(fields, PROOF) and 1 <= len(fields["heads"]) <= 4, "not the fields of a proof")
        vars(self).update(fields, heads=[*map(Head, fields["heads"])])
        self.kind, self.workload = self.claim["kind"], self.claim.get("workload")
        ordered = self.claim.get("from_ns", 0) <= self.claim.get("until_ns", 0)
        need(ordered and (self.form, self.kind) != ("chain", "workloads"), "no such claim in this form")
        must = {"log": "log"}.get(self.form) or {"workloads": "maps", "never-ran": "absent"}.get(self.kind)
        may = {"log": set()}.get(self.form, {"entries"} if self.workload is None else {"places", "start", "entries"})
        brings = {part for part in parts if fields[part] not in ([], None)}
        need({must} - {None} <= brings <= {must} | may, "it does not bring what its claim needs, or more")
        need(digest(canonical({key: fields[key] for key in fields if key != "sum"})) == self.sum, "its sum does not fit: it was altered")

    def check_heads(self):
        """2: every head is signed, has an epoch in its tree, and continues the one before."""
        bare = self.form == "log"
        for head, old in zip(self.heads, [None, *self.heads]):
            head.open(self.trust["ledger"], self.trust["witness"])
            epoch = entry_of(head["entry"], head["index"]) if bare else head.entry(head)
            need((epoch["kind"], epoch["workload"]) == ("epoch", "") and fits(epoch["data"], EPOCH), "what should be an epoch is not")
            head.update(epoch["data"], time_ns=epoch["time_ns"])
            need(head["since"] <= head["index"] == head["covers"], "an epoch does not cover the log")
            need(not (head["path"] and bare) and not (head["consistency"] and (bare or not old)), "it brings paths without need")
            if old:
                ordered = old["index"] < head["since"] and old["time_ns"] < head["time_ns"] and old["size"] <= head["size"]
                need(ordered and old["origin"] == head["origin"], "heads are not in order, or of two ledgers")
                need(bare or head.continues(old, unhex(head["consistency"])), "the ledger was forked")

    def around(self, at_ns):
        """3: the heads before (None: not needed) and after an instant, the index below which all counts, and which entries count."""
        after = next((place for place, head in enumerate(self.heads) if head["time_ns"] >= at_ns), None)
        need(after is not None, "the ledger in this proof ends before the instant", "prove.not-covered")
        end, since = self.heads[after]["index"], self.heads[after]["since"]
        exact = self.heads[after]["time_ns"] == at_ns or self.kind == "never-ran"
        before, sure = None if exact or since == 0 else after - 1, end if exact else since - 1
        need(before is None or (after > 0 and self.heads[before]["index"] == sure), "these are not the two heads around the instant")
        return before, after, sure, lambda entry: entry["index"] < sure or (entry["index"] < end and entry["time_ns"] <= at_ns)

    def check_chain(self, bracket):
        """4: the entries of the workload that it brings, and what is the case before the first and after each."""
        need(len(self.places) == len(self.heads), "it does not say of each head where the workload stands in its map")
        first = self.places[0]["count"] if self.form == "light" and bracket[2] >= 0 else 0
        facts = (self.start or beginning(self.workload))["facts"]
        need((self.start is None) == (first == 0) and fits(facts, FACTS), "it begins elsewhere in the chain than it says")
        start = beginning(self.workload) | (self.start or {}) | {"count": first}
        entries = [self.heads[-1].entry(item) for item in self.entries]
        states, indexes = [*itertools.accumulate(entries, advance, initial=start)], [entry["index"] for entry in entries]
        need(indexes == sorted({*indexes}) and states[-1]["count"] == self.places[-1]["count"], "entries are missing, or too many")
        for place, head in zip(self.places, self.heads):
            before, until = (sum(index < end for index in indexes) for end in (head["index"], head["index"] + 1))
            need(before == until == place["count"] - first, "an entry is not where the maps count it")
            if place["count"] == 0:
                head.check_absent(workload_key(self.workload), place)
            else:
                named = map_root(*leaf(row_of(states[before])), unhex(place["path"])) == head["map_root"]
                need(named and place["other"] is None, "a map does not say of the workload what its entries make")
        if self.absent is not None:
            self.heads[-1].check_absent(ran_key(self.workload, self.claim["release"]), self.absent)
        return entries, states

    def check_log(self):
        """4, form `log`: everything made anew. Gives all entries."""
        need(len(self.log) == self.heads[-1]["size"], "it does not bring the whole log")
        entries, now, ran, since, latest = [entry_of(*item) for item in zip(self.log, itertools.count())], {}, {}, 0, -1
        for entry in entries:
            name, said = entry["workload"], entry["data"]
            if entry["kind"] == "epoch":
                need(fits(said, EPOCH) and (name, entry["actor"], entry["sealed"]) == ("", "ledger", {}), "what should be an epoch is not")
                root = map_of(sorted(map(leaf, [*map(row_of, now.values()), *ran.values()]))).hex()
                truth = said | {"covers": entry["index"], "map_root": root, "map_size": len(now), "since": since}
                stamp, since = max(entry["time_ns"] - said["behind_ns"], latest + 1), entry["index"] + 1
                need(said == truth and entry["time_ns"] == stamp >= said["behind_ns"], "an epoch does not commit to what precedes it")
            now[name], latest = advance(now.get(name, beginning(name)), entry), max(latest, entry["time_ns"])
            if started(entry):
                ran.setdefault((name, started(entry)), {"workload": name, "release": started(entry), "seq": entry["seq"]})
        for head in self.heads:
            need(self.log[head["index"] : head["size"]][:1] == [head["entry"]], "a head's epoch is not the one of the log")
            need(tree([*map(leaf_hash, self.log[: head["size"]])]) == head["root"], "entries do not lead to the root")
        return entries

    def check_maps(self, bracket):
        """5: the first entry of each workload that the last map has and the one before has not; of all others, an index of -2."""
        need(len(self.maps) == len(self.heads), "it does not bring the map of each head")
        for said, head in zip(self.maps, self.heads):
            leaves, rest = [leaf(row) for row in said["leaves"]], bytes.fromhex(said["rest"])
            need(leaves == sorted(dict(leaves).items()), "the leaves of a map are not sorted")
            root = map_of(leaves, 1) if rest == EMPTY and len(leaves) < 2 else branch(map_of(leaves, 1), rest)
            need((root.hex(), len(leaves)) == (head["map_root"], head["map_size"]), "the workloads are not those of the signed map")
        (before, after, sure, _), entries = bracket, [self.heads[-1].entry(item) for item in self.entries]
        names = [{row["workload"] for row in said["leaves"]} for said in self.maps]
        old = names[after] if sure == self.heads[after]["index"] else set() if before is None else names[before]
        between = [entry["workload"] for entry in entries if entry["seq"] == 0 and sure < entry["index"] < self.heads[after]["index"]]
        proper = old <= names[after] and sorted(between) == sorted(names[after] - old) and len(between) == len(entries)
        need(proper, "it does not bring the first entry of each workload that was new, and no others")
        return [*entries, *({"workload": name, "seq": 0, "index": -2} for name in old)]

    def answer_of(self, entries, states, brackets):
        """The answer about the workload, and the releases that it names."""
        at_instants = [states[sum(1 for _ in itertools.takewhile(bracket[3], entries))] for bracket in brackets]
        (begin, end), (old, new) = (tuple(at_instants[place][key] for place in (0, -1)) for key in ("count", "facts"))
        if self.kind == "never-ran":
            need(all(started(entry) != self.claim["release"] for entry in entries), "the release was started")
            return {"exists": end > 0, "entries": end, "ran": False}, set()
        if self.kind == "state":
            return {"exists": end > 0, "entries": end, "state": new}, named_in(new)
        keys = ("index", "seq", "kind", "time_ns", "actor", "data", "sealed")
        between = [{key: entry[key] for key in keys} for entry in entries if begin <= entry["seq"] < end]
        return {"exists": end > 0, "from": old, "until": new, "between": between}, {*named_in(old), *named_in(new), *map(started, between)}

    def check_releases(self, named):
        """6: the releases that the answer names, and no others, each signed by whom the verifier believes (docs/spec/signature.md)."""
        need(len(self.releases) == len(named), "the releases that it brings are not those that the answer names")
        light = self.form == "light"
        for release, name in zip(self.releases, named):
            manifest, config, statement = (utf8(release[part]) for part in ("manifest", "config", "statement"))
            need(light == (not manifest) and light == (not config), "manifests come with all proofs but light ones")
            said = None if light else parse(manifest)
            about = field(field(said, "annotations"), "dev.stele.workload"), field(field(said, "config"), "digest"), digest(manifest)
            need(light or about == (self.workload, digest(config), name), "a release is another one, or of another workload")
            stated, pae = parse(statement, strict=False), b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(statement), statement)
            proper = (field(stated, "_type"), field(stated, "predicateType")) == STATEMENT and len(statement) <= 1 << 20
            subjects = field(stated, "subject") if isinstance(field(stated, "subject"), list) else []
            about = [field(subject, "digest") for subject in subjects] if re.fullmatch("sha256:[0-9a-f]{64}", name) else []
            need(proper and {"sha256": name[7:]} in about, "what was signed is something else than this release")
            blobs = [base64.b64decode(text) for text in release["signatures"] if re.fullmatch(BASE64, text)]
            held = any(holds(key.verify, blob, pae, ec.ECDSA(hashes.SHA256())) for key in self.trust["release"] for blob in blobs)
            need(held and len(release["signatures"]) <= 16, "a release is not signed by a key that you trust")

    def verdict(self):
        """What the proof says: claim, form, answer, private values, and when witnesses saw its heads. Refused: it does not hold."""
        self.check_heads()
        entries = self.check_log() if self.form == "log" else []
        brackets = [self.around(self.claim[key]) for key in ("at_ns", "from_ns", "until_ns") if key in self.claim]
        need({*range(len(self.heads))} == {place for bracket in brackets for place in bracket[:2]} - {None}, "it brings heads without need")
        if self.workload is None:
            first = [entry for entry in entries or self.check_maps(brackets[0]) if entry["seq"] == 0 and brackets[0][3](entry)]
            answer, named, entries = {"workloads": sorted({entry["workload"] for entry in first} - {""})}, set(), []
        else:
            mine = [entry for entry in entries if entry["workload"] == self.workload]
            states = [*itertools.accumulate(mine, advance, initial=beginning(self.workload))]
            entries, states = (mine, states) if self.form == "log" else self.check_chain(brackets[0])
            answer, named = self.answer_of(entries, states, brackets)
        self.check_releases(sorted(named - {""}))
        sealed, order = {entry["index"]: entry["sealed"] for entry in entries}, [(item["index"], item["field"]) for item in self.openings]
        need(order == sorted({*order}), "openings are out of order")
        for opening in self.openings:  # 7: private values are those that the entries commit to (docs/spec/sealed.md)
            told = sha(b"stele-sealed-v1\n", bytes.fromhex(opening["salt"]), canonical([opening["field"], opening["value"]])).hex()
            need(field(sealed.get(opening["index"]), opening["field"]) == told, "an opening is not what the entry commits to")
        opened = [{key: opening[key] for key in ("index", "field", "value")} for opening in self.openings]
        return {"claim": self.claim, "form": self.form, "answer": answer, "opened": opened, "seen": [head["seen"] for head in self.heads]}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        print(json.dumps(Proof(*(open(name, "rb").read((64 << 20) + 1) for name in sys.argv[1:])).verdict(), indent=1, sort_keys=True))
    except ValueError as error:  # a release key in TRUST_KEYS is none, if it is not Refused
        sys.exit(f"REFUSED [{getattr(error, 'code', 'trust.bad-key')}]: {error.args[0]}")
