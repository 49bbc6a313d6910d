#!/usr/bin/env python3
"""Check a Stele proof (docs/spec/proof.md, version 3): `python3 stele_verify.py PROOF TRUST_KEYS`. Exit code 0: it holds. See `Proof`."""

import base64, fnmatch, functools, hashlib, itertools, json, math, re, sys

from cryptography.exceptions import InvalidSignature  # all that it needs besides Python 3.11 or later
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

# ---- hashes, and JSON in its one spelling (docs/spec/canonical.md)
unhex, unbase64 = bytes.fromhex, base64.b64decode
utf8 = lambda text: text.encode("utf-8", "surrogatepass")
sha = lambda *parts: hashlib.sha256(b"".join(parts)).digest()
digest = lambda text: "sha256:" + sha(utf8(text)).hex()
canonical = lambda value: json.dumps(value, sort_keys=True, separators=(",", ":"))
number = lambda text: int(text) if len(text) < 21 and abs(int(text)) < 1 << 63 else need(False, "not an integer of 63 bits")
brackets = lambda text: re.sub(r'"(?:[^"\\]++|\\.)*+"|[^][{}"]++', "", text)  # those that are not in strings
depth = lambda text: max(itertools.accumulate(1 if bracket in "[{" else -1 for bracket in brackets(text)), default=0)


def need(holds, reason, code="prove.invalid"):
    if not holds:
        raise ValueError(f"[{code}] {reason}")


def attempt(call, *given):  # [what the call gives], or nothing if it refuses
    try:
        return [call(*given)]
    except (InvalidSignature, ValueError, RecursionError):
        return []


def parse(text, code="prove.invalid"):
    found = attempt(lambda: json.loads(text, parse_int=number, parse_float=number, parse_constant=number))
    need(found and depth(text) <= 65 and canonical(found[0]) == text, "not canonical JSON", code)
    return found[0]


# ---- what a proof consists of: a type, a pattern, [of each item, at most so many], {name: of its value}, {EACH: of all}, (one, or another)
EACH, HEX, NULL, LIVE = "", "[0-9a-f]{64}", type(None), {"": {"instance": str, "release": str, "since_ns": int}}
FACTS = {"active_release": str, "active_instance": str, "active_since_ns": int, "good": str, "running": LIVE, "frozen": LIVE}
ENTRY = {"v": int, "workload": str, "seq": int, "prev": str, "kind": str, "time_ns": int, "actor": str, "data": dict, "sealed": {EACH: HEX}}
SAID = {"map": int, "map_root": HEX, "map_size": int, "covers": int, "since": int, "behind_ns": int}
EPOCH = ENTRY | {"workload": "", "kind": "epoch", "actor": "ledger", "data": SAID, "sealed": {}}
ROW, RAN = {"workload": str, "count": int, "head": str, "state": str}, {"workload": str, "release": str, "seq": int}
ITEM = {"index": int, "entry": str, "path": [HEX], "openings": {EACH: {"salt": HEX, "value": object}}}
PLACE, NAMES = {"path": [HEX], "leaf": (ROW, RAN, NULL)}, {"leaves": [ROW], "rest": HEX}
HEAD = {"checkpoint": str, "timestamps": [str, 4], "epoch": ITEM, "place": PLACE}
RELEASE = {"manifest": str, "config": str, "statement": str, "signatures": [str]}
ALL = {"claim": NULL, "format": "stele-proof v3", "form": "light|chain|log", "heads": [HEAD, 4], "facts": (FACTS, NULL)}
ALL |= {"entries": [ITEM], "log": [str], "absent": NULL, "workloads": NULL, "releases": [RELEASE], "roots": [str]}
STATE, HISTORY = {"kind": "state", "workload": str, "at_ns": int}, {"kind": "history", "workload": str, "from_ns": int, "until_ns": int}
NEVER_RAN = {"claim": {"kind": "never-ran", "workload": str, "release": "sha256:" + HEX, "at_ns": int}, "absent": PLACE}
OF_MAP = {"claim": {"kind": "workloads", "at_ns": int}, "heads": [HEAD | {"place": NULL}, 4], "facts": NULL, "workloads": NAMES}
PROOF = (ALL | {"claim": (STATE, HISTORY)}, ALL | NEVER_RAN, ALL | OF_MAP)


def fits(value, shape):
    if type(shape) in (tuple, str):
        return any(fits(value, one) for one in shape) if type(shape) is tuple else type(value) is str and bool(re.fullmatch(shape, value))
    if type(shape) is list:
        return type(value) is list and len(value) <= (*shape, math.inf)[1] and all(fits(item, shape[0]) for item in value)
    if type(shape) is dict and type(value) is dict:
        names = dict.fromkeys(value, shape[EACH]) if EACH in shape else shape
        return value.keys() == names.keys() and all(fits(value[name], names[name]) for name in names)
    return shape is object or (type(value) is shape and (shape is not int or value >= 0))


# ---- the tree of entries (RFC 6962, section 2.1), and the map of an epoch (docs/spec/epoch-map.md)
EMPTY, HIGH = (bytes(32),), 1 << 255
branch = lambda left, right: sha(b"\1", left, right)
workload_key = lambda workload, **_: int.from_bytes(sha(utf8(workload)), "big") & ~HIGH
ran_key = lambda workload, release, **_: int.from_bytes(sha(sha(utf8(workload)), utf8(release)), "big") | HIGH
leaf_of = lambda row: (sha(b"\0", utf8(canonical(row))), ran_key(**row) if "release" in row else workload_key(**row))


def roots_by(path, leaf, index, size):  # by its audit path: the root of the tree that ends with this leaf, and of the whole tree
    need(index < size and (size > 1) == bool(path), "an audit path does not fit")
    if size == 1:
        return leaf, leaf
    half = 1 << (size - 1).bit_length() - 1  # the largest power of two smaller than the size
    first, whole = roots_by(path[:-1], leaf, index % half, half if index < half else size - half)
    return (first, branch(whole, path[-1])) if index < half else (branch(path[-1], first), branch(path[-1], whole))


def put(node, leaf, depth=0):  # a map with a leaf in it; a node is EMPTY, a leaf (hash, key), or a branch (hash, left, right)
    if node == EMPTY or node[1:] == leaf[1:]:
        return leaf
    sides, moved = ([EMPTY, EMPTY], [node, leaf]) if len(node) == 2 else ([*node[1:]], [leaf])
    for one in moved:
        bit = one[1] >> 255 - depth & 1
        sides[bit] = put(sides[bit], one, depth + 1)
    return branch(sides[0][0], sides[1][0]), *sides


def find(root, key, path, leaf):  # the leaf of a key in the map with this root; None: there is none
    node, found = leaf_of(leaf) if leaf else (EMPTY[0], key)
    need(len(path) <= 256 and found >> 256 - len(path) == key >> 256 - len(path), "a path leads elsewhere in the map")
    for depth, sibling in reversed([*enumerate(map(unhex, path))]):
        node = branch(sibling, node) if key >> 255 - depth & 1 else branch(node, sibling)
    need(node.hex() == root, "a path does not lead to the root of the map")
    return leaf if found == key else None


# ---- entries, and the state of a workload that they make (docs/spec/event.md)
NOTHING = {"active_release": "", "active_instance": "", "active_since_ns": 0, "good": "", "running": {}, "frozen": {}}
state_of = lambda workload, seq=0, prev="", facts=NOTHING: {"workload": workload, "seq": seq, "prev": prev, "facts": facts}
row_of = lambda workload, seq, prev, facts: {"workload": workload, "count": seq, "head": prev, "state": digest(canonical(facts))}
word = lambda entry, name: entry["data"][name] if isinstance(entry["data"].get(name), str) else ""
started = lambda entry: word(entry, "release") if entry["kind"] == "instance.starting" else ""


def entry_of(text, index):
    entry = parse(text)
    proper = fits(entry, ENTRY) and entry["v"] == 1 and entry["sealed"].keys().isdisjoint(entry["data"])
    need(proper and all(re.fullmatch("[a-z][a-z0-9_]{0,63}", name) for name in entry["sealed"]), "an entry is malformed")
    said, epoch = entry["data"], entry["kind"] == "epoch"
    whole = not epoch or (fits(entry, EPOCH) and said["map"] == 2 and said["since"] <= said["covers"] == index)
    need(whole and (epoch or entry["time_ns"] < 1 << 62), "an epoch does not cover the log, or an entry is stamped too far ahead")
    return entry | {"index": index, "digest": digest(text)}


def advance(state, entry):  # the state of a workload, in which `seq` and `prev` of its next entry are, after that
    need(all(entry[name] == state[name] for name in ("workload", "seq", "prev")), "an entry does not continue the chain of its workload")
    kind, instance, release, incident = entry["kind"], *(word(entry, name) for name in ("instance", "release", "incident"))
    facts, ends = state["facts"], kind in ("instance.stopped", "instance.failed", "instance.frozen")
    live = {"instance": instance, "release": release, "since_ns": entry["time_ns"]}
    others = lambda live, gone: {name: one for name, one in live.items() if name != gone}
    running = others(facts["running"], ends and instance) | ({instance: live} if kind == "instance.starting" else {})
    frozen = others(facts["frozen"], kind == "quarantine.released" and incident) | ({incident: live} if kind == "instance.frozen" else {})
    facts = facts | {"running": running, "frozen": frozen} | ({"good": release} if kind == "deploy.confirmed" else {})
    facts |= {f"active_{name}": value for name, value in live.items()} if kind == "instance.active" else {}
    if ends and instance == facts["active_instance"]:
        facts |= {"active_instance": "", "active_since_ns": 0} | ({"active_release": ""} if kind == "instance.stopped" else {})
    return state_of(state["workload"], state["seq"] + 1, entry["digest"], facts)


# ---- keys and notes (C2SP signed-note, tlog-checkpoint, tlog-cosignature), trust files (docs/spec/trust-keys.md), root documents (root.md)
NUMBER, NAME, WORD, HASH = "(?:0|[1-9][0-9]{0,17})", "[!-*,-~]{1,200}", "[!-~]+", "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]="
BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"  # in its one spelling
ED25519, COSIGNATURE, ML_DSA_44 = "A[Q-Za-f][A-Za-z0-9+/]{42}", "B[A-P][A-Za-z0-9+/]{42}", "B[g-v][A-Za-z0-9+/]{1748}[AEIMQUYcgkosw048]="
VKEY, SPKI = f"{NAME}\\+[0-9a-f]{{8}}\\+", "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE[A-Za-z0-9+/]{85}[AQgw]=="  # P-256, in full
SIGNER, SPAN = "[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?", f"{NUMBER} (?:{NUMBER}|-)"
LEDGER, WITNESS = f"{VKEY}(?:{ED25519}|{ML_DSA_44})", f"{VKEY}(?:{COSIGNATURE}|{ML_DSA_44})"
TRUST = f"ledger {LEDGER}|root {WORD} [1-9][0-9]{{0,8}} {HEX}|release {SPKI}|witness {WORD} {WITNESS}|(?:group|quorum|tsa) [ -~]+"
ROOT = f"stele-root v0\nledger ({NAME})\nversion ([1-9][0-9]{{0,8}})\nthreshold ([1-9][0-9]?)\n(?:holder {VKEY}{ED25519}\n){{1,32}}"
ROOT += f"(?:log {SPAN} (?=\\1\\+){LEDGER}\n)*(?:stolen {NUMBER} {HASH} {LEDGER}\n)*(?:key {SIGNER} {SPAN} {SPKI}\n)*"
ROOT += f"(?:revoke {HEX} {NUMBER} (?=.{{1,200}}\n){WORD}(?: {WORD})*\n)*(?:rule [a-z0-9*-]{{1,80}} {NUMBER}(?: {SIGNER})+\n)*"
ROOT += "(?:running (?:stop|report)\n)?"
rows = lambda text, kind: [line.split(" ")[1:] for line in text.split("\n") if line.startswith(kind + " ")]
once = lambda items: len(set(items)) == len(items)
until = lambda text: math.inf if text == "-" else int(text)
TYPES = {1: (ed25519.Ed25519PublicKey, 0, 64), 4: (ed25519.Ed25519PublicKey, 8, 72), 6: (mldsa.MLDSA44PublicKey, 8, 2428)}
STATEMENT = ["https://in-toto.io/Statement/v1", "https://sigstore.dev/cosign/sign/v1"]
release_key = lambda spki: ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unbase64(spki)[26:])


def keys_of(vkeys):  # {(name, id): type and key}
    keys = [(name, unhex(identity), unbase64(key)) for name, identity, key in (vkey.split("+", 2) for vkey in vkeys)]
    need(all(identity == sha(utf8(name), b"\n", key)[:4] for name, identity, key in keys), "a key has the id of another", "trust.bad-note")
    return {(name, identity): key for name, identity, key in keys}


class Note:
    def __init__(self, note):
        text, _, tail = (note if len(note) <= 1 << 17 else "").rpartition("\n\n")
        lines = [re.fullmatch(f"\u2014 ([^\\s+\0-\x1f\ud800-\udfff]+) (?=[^=]{{7}})({BASE64})", line) for line in tail[:-1].split("\n")]
        need(tail.endswith("\n") and all(lines) and len(utf8(note)) <= 1 << 17, "not a signed note", "trust.bad-note")
        self.said = re.fullmatch(f"({NAME})\n({NUMBER})\n({HASH})\n", text + "\n")  # a checkpoint
        self.text, self.signatures = text + "\n", [((line[1], unbase64(line[2])[:4]), unbase64(line[2])[4:]) for line in lines]

    def by(self, keys):  # the signatures by these keys: each holds, and there is one by each
        held = {}
        for who, signature in (pair for pair in self.signatures if pair[0] in keys):
            need(who not in held, "two signatures by one key", "trust.bad-note")
            need(self.signed(who[0], keys[who], signature), "a signature is false", "trust.bad-signature")
            held[who] = signature
        return held

    def signed(self, name, key, signature):  # whether a signature, which is behind a time in types 4 and 6, holds
        kind, at, size = TYPES[key[0]]
        time = signature[:at]
        said = (b"cosignature/v1\ntime %d\n" % int.from_bytes(time, "big") if key[0] == 4 else b"") + utf8(self.text)
        if key[0] == 6:
            origin, length, root, _ = self.text.split("\n")
            by, of = (bytes([len(text)]) + utf8(text) for text in (name, origin))
            said = b"subtree/v1\n\0" + by + time + of + bytes(8) + int(length).to_bytes(8, "big") + unbase64(root)
        return len(signature) == size and time < b"\x80" and attempt(lambda: kind.from_public_bytes(key[1:]).verify(signature[at:], said))


class Root:  # a document of a root of trust that is possible in itself; who signed it is another question
    def __init__(self, document):
        said, gap, _ = document.rpartition("\n\n")
        self.text, self.by = said + "\n" if gap else document, lambda holders: Note(document).by(holders) if gap else {}
        proper = len(utf8(document)) <= 32 << 10 and re.fullmatch(ROOT, self.text)
        need(proper, "not the lines of a root document")
        self.origin, self.version, self.threshold = proper[1], int(proper[2]), int(proper[3])
        holders, self.logs, keys, self.rules = (rows(self.text, kind) for kind in ("holder", "log", "key", "rule"))
        self.holders, _ = (keys_of([row[-1] for row in found]) for found in (holders, self.logs + rows(self.text, "stolen")))
        self.keys = {sha(unbase64(spki)).hex(): (signer, release_key(spki)) for signer, _, _, spki in keys}
        lost = [(row[-1], int(row[0])) for row in rows(self.text, "stolen")] + [(row[0], int(row[1])) for row in rows(self.text, "revoke")]
        self.lost, self.named = dict(lost), {row[-1] for row in self.logs} | self.keys.keys()
        publics = [row[-1].split("+", 2)[-1] for row in holders + self.logs] + [row[-1] for row in keys]
        possible = [once(who) and 1 <= int(least) <= len(who) and {*who} <= {row[0] for row in keys} for _, least, *who in self.rules]
        possible += [int(row[-3]) < until(row[-2]) for row in self.logs + keys] + [self.threshold <= len(holders), once(publics)]
        possible += [once([row[0].split("+")[0] for row in holders]), len(self.lost) == len(lost), self.lost.keys() <= self.named]
        need(all(possible), "a key or a threshold in it is not possible beside the others")

    def ledger_keys(self, head):  # for its size; what a stolen key signed is not believed in a proof: it brings a later checkpoint
        valid = [vkey for start, end, vkey in self.logs if int(start) <= head.size < until(end) and vkey not in self.lost]
        ours, stolen = (keys_of(vkeys) for vkeys in (valid, [row[-1] for row in self.logs if row[-1] in self.lost]))
        by = lambda keys: any(who in keys and keys[who][0] == 1 for who, _ in head.signatures)
        need(by(ours) or not by(stolen), "the checkpoint is signed with a stolen key", "trust.stolen-key")
        return ours

    def release_keys(self, workload):  # how many must have signed its releases, and who may (docs/spec/trust-policy.md)
        _, least, *who = next((rule for rule in self.rules if fnmatch.fnmatchcase(workload, rule[0])), ("", "1"))
        return int(least), [key for identity, key in self.keys.items() if key[0] in who and identity not in self.lost]


class Trust:
    def __init__(self, data):
        text, code = data.decode("ascii", "replace"), "trust.bad-trust-file"
        need(re.fullmatch(f"stele-trust v1\n(?:(?:{TRUST})\n)*", text) and once(text.split("\n")), "not a trust file", code)
        self.ledgers, self.witnesses = (keys_of([row[-1] for row in rows(text, kind)]) for kind in ("ledger", "witness"))
        self.releases = [("", key) for (spki,) in rows(text, "release") for key in attempt(release_key, spki)]
        self.roots = {origin: (int(version), named) for origin, version, named in rows(text, "root")}
        beside = [name for name, _ in self.ledgers if name in self.roots] or len(self.roots) < len(rows(text, "root"))
        need(not beside and len(self.releases) == len(rows(text, "release")), "keys beside a root, two roots, or not a release key", code)
        need(self.roots or 1 in {key[0] for key in self.ledgers.values()}, "no key of a ledger", "prove.no-keys")

    def root(self, origin, documents):  # to which the documents lead from the one that is trusted
        (version, named), roots = self.roots[origin], [root for document in documents for root in attempt(Root, document)]
        need(len(roots) == len(documents), "not a root document", "trust.bad-root")
        later = [root for root in roots if root.version >= version]
        rising = all(old.version < root.version for old, root in itertools.pairwise(roots)) and {root.origin for root in roots} <= {origin}
        ours = later and sha(utf8(later[0].text)).hex() == named and later[-1].version == version + len(later) - 1
        need(rising and ours, "root documents do not lead on from the one that you trust, version by version", "trust.root-order")
        for old, root in zip([later[0], *later], later):  # enough holders of both have signed it, and it takes nothing back
            held = [by for one in (old, root) for by in attempt(root.by, one.holders)]
            need(len(held) == 2, "a signature of a root document is false", "trust.bad-root")
            need(all(len(by) >= one.threshold for by, one in zip(held, (old, root))), "too few have signed it", "trust.root-unsigned")
            kept = all(root.lost.get(key, math.inf) <= old.lost[key] for key in old.lost.keys() & root.named)
            need(kept, "it takes back that a key was stolen or revoked", "trust.bad-root")
        return later[-1]


# ---- what verdicts say besides the answer: whose word the time is, and what was not checked, by form and in any
WORD_OF = "the operator's clock; a head that a witness saw (`seen`) is no younger than that; stamps by authorities were not looked at"
MAPS = "that the signed maps hold what the entries make, and left none out: the operator, who has the key, says so"
OPEN = {"log": [], "chain": [MAPS], "light": [MAPS, "what is in the releases: their signatures were"]}
ALWAYS_OPEN = ["when releases were signed", "whether enough witnesses saw it", "whether somebody else was shown another ledger"]
ALWAYS_OPEN += ["anything after the last head", "what code did while it ran, and what ran outside Stele's care"]


class Proof:  # its methods take the seven steps of docs/spec/proof.md
    def __init__(self, data, trust):  # 1: the file; its fields are attributes from here on
        self.trust, self.opened, self.used = Trust(trust), [], set()
        need(len(data) <= 64 << 20 and data.endswith(b"\n"), "not a proof file")
        fields = parse(data[:-1].decode("ascii", "replace"), "trust.not-canonical")
        need(type(fields) is dict and fields.pop("sum", "") == digest(canonical(fields)), "its sum does not fit: it was altered")
        need(fits(fields, PROOF) and fields["heads"], "not what a proof of its claim consists of")
        vars(self).update(fields, kind=fields["claim"]["kind"], workload=fields["claim"].get("workload", ""))
        need((self.form == "log") == bool(self.log) and (self.form != "chain" or self.facts is self.workloads is None), "not of its form")
        self.instants = [self.claim[name] for name in ("at_ns", "from_ns", "until_ns") if name in self.claim]
        need(self.instants == sorted(self.instants), "the end of the claim is before its beginning")

    def included(self, index, entry, path, openings):  # an entry under the last head, and the root of the tree that ends with it
        first, whole = roots_by([*map(unhex, path)], sha(b"\0", utf8(entry)), index, self.last.size)
        need(whole == self.last.root, "an entry is not where it should be in the signed log")
        entry = entry_of(entry, index)
        for name, opening in openings.items():  # 7
            made = sha(b"stele-sealed-v1\n", unhex(opening["salt"]), utf8(canonical([name, opening["value"]]))).hex()
            need(entry["sealed"].get(name) == made, "an opening is not what the entry commits to")
            self.opened.append({"index": index, "field": name, "value": opening["value"]})
        return entry, first

    def check_heads(self):  # 2: each is a signed checkpoint, its tree is the beginning of the last one's, and it has an epoch
        fields, self.heads = self.heads, [Note(head["checkpoint"]) for head in self.heads]
        need(all(head.said for head in self.heads), "not a checkpoint", "trust.bad-note")
        self.last, origin = self.heads[-1], self.heads[0].said[1]
        self.root = self.trust.root(origin, self.roots) if origin in self.trust.roots else None
        for head in self.heads:
            head.origin, head.size, head.root = head.said[1], int(head.said[2]), unbase64(head.said[3])
            ledgers = self.root.ledger_keys(head) if self.root else self.trust.ledgers
            ledgers = {who: ledgers[who] for who in ledgers if who[0] == head.origin}
            held = head.by(self.trust.witnesses | ledgers)
            own, wanted = ({ledgers[who][0] for who in ledgers if who in some} for some in (held, ledgers))
            need(1 in own, "signed by nobody whom you trust", "trust.unknown-signer")
            need(own == wanted, "the ML-DSA-44 signature is missing", "trust.missing-signature")
            head.seen = {who[0]: int.from_bytes(held[who][:8], "big") for who in held if who not in ledgers}
        for head, said in zip(self.heads, fields):
            epoch, first = self.included(**said["epoch"])
            ours = (head.size, head.root) in ((epoch["index"] + 1, first), (self.last.size, self.last.root))
            need(ours and head.origin == self.last.origin and epoch["kind"] == "epoch", "the ledger was forked, or this is no head of it")
            vars(head).update(epoch["data"], time_ns=epoch["time_ns"], place=said["place"])
        for old, head in itertools.pairwise(self.heads):
            need(old.covers < head.since and old.time_ns < head.time_ns, "heads are not in order")

    def around(self, at_ns):  # 3: the heads around an instant; below which index all entries count, and whether an entry counts
        after = next((number for number, head in enumerate(self.heads) if head.time_ns >= at_ns), None)
        need(after is not None, "the ledger in this proof ends before the instant", "prove.not-covered")
        head, exact = self.heads[after], self.heads[after].time_ns == at_ns or self.kind == "never-ran"
        before, sure = after if exact or head.since == 0 else after - 1, head.covers if exact else head.since
        need(before == after or (before >= 0 and self.heads[before].covers == sure - 1), "these are not the heads around the instant")
        self.used |= {before, after}
        return exact or sure, lambda entry: entry["index"] < sure or (entry["index"] < head.covers and entry["time_ns"] <= at_ns)

    def check_log(self):  # 4, form `log`: all maps are made anew
        level = [sha(b"\0", utf8(text)) for text in self.log if len(self.log) == self.last.size]
        while len(level) > 1:
            level = [branch(*level[at : at + 2]) if level[at + 1 : at + 2] else level[at] for at in range(0, len(level), 2)]
        need(level == [self.last.root], "the log is not the one that was signed")
        states, changed, ran, node, since, latest = {}, set(), set(), EMPTY, 0, -1
        for entry in map(entry_of, self.log, itertools.count()):
            name, said, release = entry["workload"], entry["data"], started(entry)
            if entry["kind"] == "epoch":
                node = functools.reduce(put, [leaf_of(row_of(**states[other])) for other in changed], node)
                truth = said | {"map_root": node[0].hex(), "map_size": len(states), "since": since}
                stamp = max(entry["time_ns"] - said["behind_ns"], latest + 1)
                need(said == truth and entry["time_ns"] == stamp >= said["behind_ns"], "an epoch does not say what precedes it")
                changed, since = set(), entry["index"] + 1
            if release and (name, release) not in ran:
                node = put(node, leaf_of({"workload": name, "release": release, "seq": entry["seq"]}))
            states[name], latest = advance(states.get(name) or state_of(name), entry), max(latest, entry["time_ns"])
            changed.add(name)
            ran.add((name, release))

    def answer_of_chain(self, entries, brackets):  # 4, 5: what the entries of a workload make is what the maps say
        maps = [find(head.map_root, workload_key(self.workload), **head.place) for head in self.heads]
        start = state_of(self.workload, *([maps[0]["count"], maps[0]["head"], self.facts] if maps[0] and self.facts else []))
        need(self.facts is None or (brackets[0][0] and maps[0] == row_of(**start)), "it begins elsewhere")
        covered = [sum(entry["index"] < head.covers for entry in entries) for head in self.heads]  # how many of them, by each head
        at = [len([*itertools.takewhile(counts, entries)]) for _, counts in brackets]  # how many count at each instant
        states = {many: one for many, one in enumerate(itertools.accumulate(entries, advance, initial=start)) if many in covered + at}
        for now, row in zip(map(states.get, covered), maps):
            need(row == (row_of(**now) if now["seq"] else None), "a map does not say of the workload what its entries make")
        need(covered[-1] == len(entries), "entries are of after the last head")
        old, new, end = states[at[0]]["facts"], states[at[-1]]["facts"], states[at[-1]]["seq"]
        told = {"exists": end > 0, "entries": end}
        if self.kind == "never-ran":
            leaf = find(self.last.map_root, ran_key(self.workload, self.claim["release"]), **self.absent)
            need(leaf is None and self.claim["release"] not in map(started, entries), "the release was started")
            return told | {"ran": False}, set()
        lives = [live for facts in (old, new) for live in (*facts["running"].values(), *facts["frozen"].values())]
        named = {facts["active_release"] for facts in (old, new) if facts["active_instance"]} | {live["release"] for live in lives}
        between = [{name: one[name] for name in one.keys() - {"v", "workload", "prev", "digest"}} for one in entries[at[0] : at[-1]]]
        told |= {"state": new} if self.kind == "state" else {"from": old, "until": new, "between": between}
        return told, named | {*map(started, between)}

    def answer_of_map(self, entries, sure, counts):  # 5: all workloads of the last map, of which the new ones have their first entries here
        need(len(self.workloads["leaves"]) == self.last.map_size, "not as many workloads as the signed map has")
        leaves, rest = [leaf_of(row) for row in self.workloads["leaves"]], unhex(self.workloads["rest"])
        half = functools.reduce(lambda node, leaf: put(node, leaf, depth=1), leaves, EMPTY)[0]
        root = half if len(leaves) < 2 and rest == EMPTY[0] else branch(half, rest)
        keys, names = [key for _, key in leaves], {row["workload"] for row in self.workloads["leaves"]}
        proper = keys == sorted(set(keys)) and root.hex() == self.last.map_root
        need(proper, "the workloads are not those of the signed map, sorted by key")
        new = {entry["workload"] for entry in entries if entry["seq"] == 0 and sure - 1 <= entry["index"] < self.last.covers} & names
        need(len(entries) == len(new) == len(keys) - (self.heads[0].map_size if sure else 0), "not the first entries of those that are new")
        return {"workloads": sorted(names - {entry["workload"] for entry in entries if not counts(entry)} - {""})}, set()

    def check_release(self, name, manifest, config, statement, signatures):  # 6
        field = lambda value, key: value.get(key) if isinstance(value, dict) else None
        bare, said, statement = [not manifest, not config], parse(manifest or "null"), utf8(statement)
        about = field(field(said, "annotations"), "dev.stele.workload"), field(field(said, "config"), "digest"), digest(manifest)
        need(bare == [self.form == "light"] * 2 and (bare[0] or about == (self.workload, digest(config), name)), "it is another release")
        need(len(signatures) <= 16 and len(statement) <= 1 << 19, "a statement or its signatures are too long")
        unique = lambda pairs: dict(pairs) if once([key for key, _ in pairs]) else need(False, "a name is there twice")
        (stated,) = attempt(lambda: json.loads(statement.decode(), object_pairs_hook=unique)) or [None]
        subjects, types = field(stated, "subject"), [field(stated, "_type"), field(stated, "predicateType")]
        named = isinstance(subjects, list) and {"sha256": name[7:]} in [field(subject, "digest") for subject in subjects]
        need(named and types == STATEMENT and re.fullmatch("sha256:" + HEX, name), "another release was signed")
        data = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(statement), statement)
        blobs = [unbase64(text) for text in signatures if re.fullmatch(BASE64, text)]
        least, keys = self.root.release_keys(self.workload) if self.root and self.root.rules else (1, self.trust.releases)
        held = [[who for who, key in keys if attempt(key.verify, blob, data, ec.ECDSA(hashes.SHA256()))] for blob in blobs]
        need(len({found[0] for found in held if found}) >= least, "not signed by whom you trust, or by too few")  # a signature counts once

    def verdict(self):  # what the proof says, private values, when (seconds) witnesses saw its heads, whose word the time is, what is open
        self.check_heads()
        brackets = [self.around(at_ns) for at_ns in self.instants]
        need(self.used == {*range(len(self.heads))}, "it brings heads without need")
        self.form == "log" and self.check_log()
        entries = [self.included(**item)[0] for item in self.entries]
        need(all(one["index"] < two["index"] for one, two in itertools.pairwise(entries)), "its entries are not in order")
        answer, named = self.answer_of_map(entries, *brackets[0]) if self.workloads else self.answer_of_chain(entries, brackets)
        need(len(self.releases) == len(named - {""}), "the releases that it brings are not those that the answer names")
        for release, name in zip(self.releases, sorted(named - {""})):
            self.check_release(name, **release)
        said = {"claim": self.claim, "form": self.form, "answer": answer, "opened": self.opened, "seen": [head.seen for head in self.heads]}
        return said | {"time": WORD_OF, "not_checked": OPEN[self.form] + ALWAYS_OPEN}


if __name__ == "__main__":
    len(sys.argv) == 3 or sys.exit(__doc__)
    try:
        print(json.dumps(Proof(*(open(name, "rb").read((64 << 20) + 1) for name in sys.argv[1:])).verdict(), indent=1, sort_keys=True))
    except (OSError, ValueError, MemoryError, RecursionError) as error:
        sys.exit(f"REFUSED: {str(error) or repr(error)}")
