#!/usr/bin/env python3
"""Check a Stele proof (docs/spec/proof.md, version 2) with nothing but this file, Python 3.11 or later, and `cryptography`.

    python3 stele_verify.py PROOF TRUST_KEYS

Exit code 0: the proof holds, and what it says is printed. 1: it does not hold, and why. It shares no code with Stele, but follows the same
specification, which says what a proof rests on. `Proof`, at the end, takes its seven steps. RFC 3161 timestamps decide nothing.
"""

import base64, fnmatch, functools, hashlib, itertools, json, re, sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

# ---- spelling: of words, of a line in a trust file (docs/spec/trust-keys.md), of a root document (docs/spec/root.md)
NUMBER, HEX, NAME, WORD = "(?:0|[1-9][0-9]{0,17})", "[0-9a-f]{64}", "[!-*,-~]{1,200}", "[!-~]+"
BASE64 = "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?"  # in its one spelling
HASH, SIGNER = "[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=", "[a-z0-9](?:[a-z0-9._-]{0,38}[a-z0-9])?"
VKEY = f"{NAME}\\+[0-9a-f]{{8}}\\+(?=[A-Za-z0-9+/]){BASE64}"
SPKI = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE[A-Za-z0-9+/]{85}[AQgw]=="  # ECDSA P-256, a point in full
TRUST = f"(?:ledger {VKEY}|root {WORD} [1-9][0-9]{{0,8}} {HEX}|release {SPKI}|witness {WORD} {VKEY}|(?:group|quorum|tsa) [ -~]+)\n"
ROOT = (
    f"stele-root v0\nledger {NAME}\nversion {NUMBER}\nthreshold {NUMBER}\n(?:holder {VKEY}\n)*(?:log {NUMBER} (?:{NUMBER}|-) {VKEY}\n)*"
    f"(?:stolen {NUMBER} {HASH} {VKEY}\n)*(?:key {SIGNER} {NUMBER} (?:{NUMBER}|-) {SPKI}\n)*"
    f"(?:revoke {HEX} {NUMBER} (?=.{{1,200}}\n){WORD}(?: {WORD})*\n)*"
    f"(?:rule [a-z0-9*-]{{1,80}} {NUMBER}(?: {SIGNER})+\n)*(?:running (?:stop|report)\n)?"
)
rows = lambda lines, kind: [line.split(" ")[1:] for line in lines.split("\n") if line.startswith(kind + " ")]
once = lambda items: len({*items}) == len(items)
within = lambda start, number, end: int(start) <= number and (end == "-" or number < int(end))
unhex = lambda texts: [bytes.fromhex(text) for text in texts]
unbase64 = base64.b64decode  # of what was matched
utf8 = lambda text: text.encode("utf-8", "surrogatepass")
# ---- hashes, trees (RFC 6962, section 2.1) and epoch maps (docs/spec/epoch-map.md)
EMPTY, HIGH = bytes(32), 1 << 255  # the hash of nothing in a map; the first bit of a key there: 0 of a workload, 1 of a release that ran
sha = lambda *parts: hashlib.sha256(b"".join(parts)).digest()
digest = lambda data: "sha256:" + sha(data).hex()
leaf_hash = lambda text: sha(b"\0", utf8(text))
branch = lambda left, right: sha(b"\1", left, right)
split = lambda size: 1 << (size - 1).bit_length() - 1  # the largest power of two smaller than it
tree = lambda leaves: branch(tree(leaves[: split(len(leaves))]), tree(leaves[split(len(leaves)) :])) if leaves[1:] else leaves[0]
half = lambda index, size: (index, split(size)) if index < split(size) else (index - split(size), size - split(size))  # where a leaf is
lefts = lambda index, size: [*lefts(*half(index, size)), index >= split(size)] if size > 1 else []  # of its siblings, which are on the left
above = lambda node, step: branch(step[0], node) if step[1] else branch(node, step[0])  # step: a sibling, and whether it is on the left
steps = lambda siblings, lefts: need(len(siblings) == len(lefts), "an audit path does not fit") or zip(siblings, lefts)
climb = lambda node, siblings, lefts: functools.reduce(above, steps(siblings, lefts), node)  # the root above a node; siblings from below
workload_key = lambda workload: int.from_bytes(sha(utf8(workload)), "big") & ~HIGH
ran_key = lambda workload, release: int.from_bytes(sha(sha(utf8(workload)), utf8(release)), "big") | HIGH
row_key = lambda row: ran_key(row["workload"], row["release"]) if "release" in row else workload_key(row["workload"])
leaf = lambda row: need(either(ROW, RAN)(row), "a leaf of a map is malformed") or (row_key(row), sha(b"\0", canonical(row)))
side = lambda leaves, at, bit: [item for item in leaves if item[0] >> (255 - at) & 1 == bit]
one_or_none = lambda leaves: leaves[0][1] if leaves else EMPTY
map_of = lambda leaves, at=0: branch(*(map_of(side(leaves, at, bit), at + 1) for bit in (0, 1))) if leaves[1:] else one_or_none(leaves)
map_root = lambda key, end, path: climb(end, path[::-1], [key >> (256 - at) & 1 for at in range(len(path), 0, -1)]).hex()
in_map = lambda head, row, path, other, **_: other is None and map_root(*leaf(row), unhex(path)) == head.map_root
# ---- JSON in its one spelling (docs/spec/canonical.md), and what it must consist of: functions that say whether a value fits
canonical = lambda value: json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
field = lambda value, key: value.get(key) if isinstance(value, dict) else None
inner = lambda value: value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
depth = lambda value: max((1 + depth(item) for item in inner(value) if isinstance(item, dict | list)), default=0)
pairs = lambda items: need(once([key for key, _ in items]), "something is named twice") or dict(items)
integer = lambda digits: int(digits) if abs(int(digits)) < 1 << 63 else digits  # what stays text is then spelled otherwise
just = lambda *wanted: lambda value: any(type(value) is type(one) and value == one for one in wanted)
either = lambda *shapes: lambda value: any(fits(value) for fits in shapes)
many = lambda fits, least=0, most=1 << 30: lambda value: type(value) is list and least <= len(value) <= most and all(map(fits, value))
each = lambda name, fits: lambda value: type(value) is dict and all(re.fullmatch(name, key) and fits(value[key]) for key in value)
record = lambda **shape: lambda value: type(value) is dict and value.keys() == shape.keys() and all(shape[key](value[key]) for key in shape)
text, signed, mapping = (lambda value, kind=kind: type(value) is kind for kind in (str, int, dict))
number = lambda value: type(value) is int and value >= 0
hexes = lambda value: type(value) is str and re.fullmatch(HEX, value)
path, null, empty = many(hexes, most=256), just(None), just([])
of = lambda fits, names: dict.fromkeys(names.split(), fits)  # fields that are alike
LIVES, SEALED = each("(?s:.*)", record(**of(text, "instance release"), since_ns=signed)), each("[a-z][a-z0-9_]{0,63}", hexes)
FACTS = record(**of(text, "active_release active_instance good"), active_since_ns=signed, running=LIVES, frozen=LIVES)
ROW, RAN = record(**of(text, "workload head state"), count=number), record(**of(text, "workload release"), seq=number)
ENTRY = record(v=just(1), **of(text, "workload prev kind actor"), **of(number, "seq time_ns"), data=mapping, sealed=SEALED)
EPOCH = record(map=just(2), map_root=hexes, **of(number, "behind_ns covers map_size since"))
ITEM, ABSENT = {"index": number, "entry": text, "path": path}, {"path": path, "other": either(null, mapping)}
HEADS = lambda **but: many(record(**{"checkpoint": text, "timestamps": many(text), "consistency": path, **ITEM, **but}), 1, 4)
CLAIM = lambda kind, texts, instants: record(kind=just(kind), **of(text, texts), **of(number, instants))
STATES = either(CLAIM("state", "workload", "at_ns"), CLAIM("history", "workload", "from_ns until_ns"))
NEVER, NAMES = CLAIM("never-ran", "workload release", "at_ns"), CLAIM("workloads", "", "at_ns")
ALL = {"format": just("stele-proof v2"), "sum": text, "heads": HEADS(), "roots": many(text)} | of(empty, "places entries maps log")
ALL |= {"releases": many(record(**of(text, "manifest config statement"), signatures=many(text, 0, 16))), **of(null, "start absent")}
ALL |= {"openings": many(record(index=number, field=text, salt=hexes, value=lambda value: True))}
NAMED = ALL | {"maps": many(record(leaves=many(ROW), rest=hexes), 1), "entries": many(record(**ITEM))}
CHAIN = NAMED | {"maps": empty, "places": many(record(count=number, **ABSENT)), "start": either(null, record(head=text, facts=mapping))}
LOG = ALL | {"heads": HEADS(**of(empty, "path consistency"))}
FORMS = (
    CHAIN | {"form": just("light", "chain"), "claim": STATES},
    CHAIN | {"form": just("light", "chain"), "claim": NEVER, "absent": record(**ABSENT)},
    NAMED | {"form": just("light"), "claim": NAMES},
    LOG | {"form": just("log"), "claim": either(STATES, NEVER, NAMES), "log": many(text, 1)},
)
PROOF = either(*(record(**form) for form in FORMS))
# ---- what entries make
NOTHING = {"active_release": "", "active_instance": "", "active_since_ns": 0, "running": {}, "frozen": {}, "good": ""}
beginning = lambda workload: {"workload": workload, "count": 0, "head": "", "facts": NOTHING}
row_of = lambda now: {key: now[key] for key in ("workload", "count", "head")} | {"state": digest(canonical(now["facts"]))}
word = lambda entry, key: entry["data"][key] if isinstance(entry["data"].get(key), str) else ""
started = lambda entry: word(entry, "release") if entry["kind"] == "instance.starting" else ""
lives = lambda facts: [*facts["running"].values(), *facts["frozen"].values()]
named_in = lambda facts: {live["release"] for live in lives(facts)} | ({facts["active_release"]} if facts["active_instance"] else set())
commitment = lambda salt, field, value: sha(b"stele-sealed-v1\n", bytes.fromhex(salt), canonical([field, value])).hex()
# ---- keys, {(name, id): (kind, key)}, and of each kind: how it is read, the bytes of a key, of a time and of a signature
ED25519, COSIGNATURE, ML_DSA_44 = 1, 4, 6
PUBLIC = {ED25519: ed25519.Ed25519PublicKey, COSIGNATURE: ed25519.Ed25519PublicKey, ML_DSA_44: mldsa.MLDSA44PublicKey}
LENGTHS = {ED25519: (32, 0, 64), COSIGNATURE: (32, 8, 64), ML_DSA_44: (1312, 8, 2420)}
STATEMENT = ("https://in-toto.io/Statement/v1", "https://sigstore.dev/cosign/sign/v1")
release_key = lambda spki: ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), unbase64(spki)[26:])


def need(holds, reason, code="prove.invalid"):
    if not holds:
        raise ValueError(reason, code)


def attempt(call, *given):  # what a call gives, and "" or why it refuses
    try:
        return call(*given), ""
    except (InvalidSignature, ValueError, RecursionError) as error:
        return None, str((*error.args, "it does not hold")[0])


def parse(data, code="prove.invalid", strict=True):  # JSON; `strict`: every other spelling than the canonical one is refused
    value, why = attempt(lambda: json.loads(data.decode(), object_pairs_hook=pairs, parse_float=str, parse_constant=str, parse_int=integer))
    proper = not why and (not strict or attempt(lambda: depth(value) <= 64 and canonical(value) == data)[0])
    need(proper, why or "not canonical JSON", code)
    return value


def entry_of(line, index):  # a well-formed entry of the log (docs/spec/event.md), with its index and digest
    entry = parse(utf8(line))
    proper = ENTRY(entry) and entry["sealed"].keys().isdisjoint(entry["data"])
    need(proper and (entry["kind"] == "epoch" or entry["time_ns"] < 1 << 62), "an entry is malformed, or stamped too far ahead")
    return {**entry, "index": index, "digest": digest(utf8(line))}


def advance(before, entry):  # what is the case with a workload after its next entry
    continued = [entry[key] for key in ("workload", "seq", "prev")] == [before[key] for key in ("workload", "count", "head")]
    need(continued, "an entry does not continue the chain of its workload")
    kind, (instance, release, incident) = entry["kind"], (word(entry, key) for key in ("instance", "release", "incident"))
    facts, ends = before["facts"], kind in ("instance.stopped", "instance.failed", "instance.frozen")
    running = {key: live for key, live in facts["running"].items() if not (ends and key == instance)}
    frozen = {key: live for key, live in facts["frozen"].items() if not (kind == "quarantine.released" and key == incident)}
    live = {"instance": instance, "release": release, "since_ns": entry["time_ns"]}
    running |= {instance: live} if kind == "instance.starting" else {}
    frozen |= {incident: live} if kind == "instance.frozen" else {}
    facts = facts | {"running": running, "frozen": frozen} | ({"good": release} if kind == "deploy.confirmed" else {})
    facts |= {f"active_{key}": item for key, item in live.items()} if kind == "instance.active" else {}
    if ends and instance == facts["active_instance"]:
        kept = "" if kind == "instance.stopped" else facts["active_release"]
        facts |= {"active_release": kept, "active_instance": "", "active_since_ns": 0}
    return {**before, "count": before["count"] + 1, "head": entry["digest"], "facts": facts}


def keys_of(vkeys, *kinds):  # keys of these kinds, each in its spelling `name+id+base64`
    keys = [(name, bytes.fromhex(identity), unbase64(key)) for name, identity, key in (vkey.split("+", 2) for vkey in vkeys)]
    for name, identity, key in keys:
        fits = key[0] in kinds and len(key) == 1 + LENGTHS[key[0]][0] and identity == sha(name.encode(), b"\n", key)[:4]
        need(fits, "not a key", "trust.bad-note")
    return {(name, identity): (key[0], key[1:]) for name, identity, key in keys}


class Note:  # a signed note (C2SP signed-note): its text, and signatures [((name, id), signature)]
    def __init__(self, note):
        said, _, tail = note.rpartition("\n\n")
        lines = [re.fullmatch(f"\u2014 ([^\\s+\0-\x1f\ud800-\udfff]+) (?=[^=]{{7}})({BASE64})", line) for line in tail[:-1].split("\n")]
        need(tail[-1:] == "\n" and all(lines) and len(utf8(note)) <= 1 << 17, "not a signed note", "trust.bad-note")
        self.text, self.signatures = said + "\n", [((line[1], unbase64(line[2])[:4]), unbase64(line[2])[4:]) for line in lines]

    def by(self, keys):  # the signatures by these keys: each holds, and there is one by each
        held = {}
        for which, signature in self.signatures:
            if which in keys:
                need(which not in held, "two signatures by one key", "trust.bad-note")
                need(self.signed(*which, *keys[which], signature), "a signature is false", "trust.bad-signature")
                held[which] = signature
        return held

    def signed(self, name, _, kind, key, signature):  # (C2SP tlog-cosignature)
        time, message, named = signature[: LENGTHS[kind][1]], utf8(self.text), lambda text: bytes([len(text)]) + text.encode()
        if kind == COSIGNATURE:
            message = b"cosignature/v1\ntime %d\n" % int.from_bytes(time, "big") + message
        if kind == ML_DSA_44:
            origin, size, root, _ = self.text.split("\n")
            message = b"subtree/v1\n\0" + named(name) + time + named(origin) + bytes(8) + int(size).to_bytes(8, "big") + unbase64(root)
        verify = lambda: PUBLIC[kind].from_public_bytes(key).verify(signature[len(time) :], message)
        return len(signature) == sum(LENGTHS[kind][1:]) and time < b"\x80" and not attempt(verify)[1]


class Trust:  # what the verifier brings
    def __init__(self, data):
        lines, code = data.decode("ascii", "replace"), "trust.bad-trust-file"
        need(re.fullmatch(f"stele-trust v1\n(?:{TRUST})*", lines) and once(lines.split("\n")), "not a trust file", code)
        self.ledgers = keys_of([vkey for (vkey,) in rows(lines, "ledger")], ED25519, ML_DSA_44)
        self.witnesses = keys_of([vkey for _, vkey in rows(lines, "witness")], COSIGNATURE, ML_DSA_44)
        self.releases = [("", attempt(release_key, spki)[0]) for (spki,) in rows(lines, "release")]
        self.roots = {origin: (int(version), named) for origin, version, named in rows(lines, "root")}
        one = len(self.roots) == len(rows(lines, "root")) and self.roots.keys().isdisjoint(name for name, _ in self.ledgers)
        need(one and all(key for _, key in self.releases), "two roots of a ledger, keys beside one, or not a release key", code)
        need(self.roots or ED25519 in {kind for kind, _ in self.ledgers.values()}, "no key of a ledger", "prove.no-keys")

    def root(self, origin, documents):  # to which the documents lead; None to whoever trusts no root of this ledger
        if origin not in self.roots:
            return None
        (version, named), roots = self.roots[origin], []
        for root, why in (attempt(Root, document) for document in documents):
            need(root, why, "trust.bad-root")
            roots.append(root)
        later = [root for root in roots if root.version >= version]  # from the trusted one on; those before it say nothing
        rising = [root.version for root in roots] == sorted({root.version for root in roots})
        ours = later and all(root.origin == origin for root in roots) and sha(utf8(later[0].text)).hex() == named
        whole = ours and later[-1].version == version + len(later) - 1
        need(rising and whole, "root documents do not lead on from the one that you trust, version by version", "trust.root-order")
        for old, root in zip([later[0], *later], later):
            root.check_after(old)
        return later[-1]


class Root:  # a document of a ledger's root of trust (docs/spec/root.md)
    def __init__(self, document):  # it is possible in itself; who signed it is another question
        said, gap, _ = document.rpartition("\n\n")
        self.document, self.text = document if gap else "", said + "\n" if gap else document
        need(re.fullmatch(ROOT, self.text) and len(utf8(document)) <= 32 << 10, "not the lines of a root document")
        self.origin, version, threshold = (line.split(" ")[1] for line in self.text.split("\n")[1:4])
        holders, self.logs, keys, self.rules = (rows(self.text, kind) for kind in ("holder", "log", "key", "rule"))
        self.version, self.threshold, self.holders = int(version), int(threshold), keys_of([vkey for (vkey,) in holders], ED25519)
        self.stolen = pairs([(vkey, int(size)) for size, _, vkey in rows(self.text, "stolen")])
        self.revoked = pairs([(identity, int(index)) for identity, index, *_ in rows(self.text, "revoke")])
        self.keys = pairs([(sha(unbase64(spki)).hex(), (signer, release_key(spki))) for signer, _, _, spki in keys])
        ledgers, signers = keys_of([row[2] for row in self.logs], ED25519, ML_DSA_44), {signer for signer, _ in self.keys.values()}
        self.named = {vkey for _, _, vkey in self.logs} | self.keys.keys()
        names, publics = ([vkey.split("+", 2)[part] for *_, vkey in holders + self.logs] for part in (0, 2))
        enough = 1 <= self.version < 10**9 and 1 <= self.threshold <= len(holders) <= 32 and once(names[: len(holders)]) and once(publics)
        ours = {name for name, _ in ledgers} <= {self.origin} and self.stolen.keys() | self.revoked.keys() <= self.named
        need(enough and ours and all(within(row[-3], int(row[-3]), row[-2]) for row in self.logs + keys), "it is not possible in itself")
        for _, least, *allowed in self.rules:
            need(once(allowed) and 1 <= int(least) <= len(allowed) and {*allowed} <= signers, "a rule is not possible")

    def check_after(self, old):  # enough holders of the document before and of this one have signed it, and it takes nothing back
        roots, held_by = (old, self), lambda root: Note(self.document).by(root.holders) if self.document else {}
        held, whys = zip(*(attempt(held_by, root) for root in roots))  # one by one: two keys may have one name and id
        need(not any(whys), "".join(whys), "trust.bad-root")
        enough = all(len(by) >= root.threshold for by, root in zip(held, roots))
        need(enough, "too few holders have signed it", "trust.root-unsigned")
        for key, since in (old.stolen | old.revoked).items():
            kept = key not in self.named or (self.stolen | self.revoked).get(key, since + 1) <= since
            need(kept, "it takes back that a key was stolen or revoked", "trust.bad-root")

    def ledger_keys(self, head):  # for its size; what a stolen key signed is not believed in a proof: it brings a later checkpoint
        valid = [vkey for start, end, vkey in self.logs if within(start, head.size, end) and vkey not in self.stolen]
        ours, stolen = (keys_of(vkeys, ED25519, ML_DSA_44) for vkeys in (valid, self.stolen))
        by = lambda keys: any(which in keys and keys[which][0] == ED25519 for which, _ in head.signatures)
        need(by(ours) or not by(stolen), "the checkpoint is signed with a stolen key", "trust.stolen-key")
        return ours

    def release_keys(self, workload):  # whose signatures of its releases count, and how many there must be (docs/spec/trust-policy.md)
        _, least, *signers = next((rule for rule in self.rules if fnmatch.fnmatchcase(workload, rule[0])), ("", 1))
        return int(least), [key for identity, key in self.keys.items() if key[0] in signers and identity not in self.revoked]


class Head(Note):  # a signed checkpoint (C2SP tlog-checkpoint), an epoch under it, and what they say
    def __init__(self, fields):
        super().__init__(fields["checkpoint"])
        said = re.fullmatch(f"({NAME})\n({NUMBER})\n({HASH})\n", self.text)
        need(said, "not a checkpoint", "trust.bad-note")
        vars(self).update(fields, origin=said[1], size=int(said[2]), root=unbase64(said[3]))

    def open(self, ledgers, witnesses):  # it is signed as it must be; `seen`: which witnesses saw it, {name: seconds}
        ledgers = {which: key for which, key in ledgers.items() if which[0] == self.origin}
        held = self.by(witnesses | ledgers)
        self.seen = {name: int.from_bytes(held[name, key][:8], "big") for name, key in held if (name, key) not in ledgers}
        own, wanted = ({ledgers[which][0] for which in ledgers if which in some} for some in (held, ledgers))
        need(ED25519 in own, "signed by nobody whom you trust", "trust.unknown-signer")
        need(own == wanted, "the ML-DSA-44 signature is missing", "trust.missing-signature")

    def included(self, index, entry, path):  # an entry that is in the signed tree
        root = climb(leaf_hash(entry), unhex(path), lefts(index, self.size))
        need(root == self.root and index < self.size, "an entry is not where it should be in the signed log")
        return entry_of(entry, index)

    def continues(self, old, siblings):  # whether the tree begins with the tree of an older head, by a consistency proof
        if old.size == self.size or not siblings:
            return (old.size, old.root, []) == (self.size, self.root, siblings)
        level = (old.size & -old.size).bit_length() - 1  # of the last whole subtree of the old tree: the way begins there
        (node, *siblings), sides = siblings if old.size & (old.size - 1) else [old.root, *siblings], lefts(old.size - 1, self.size)[level:]
        inside = [sibling for sibling, left in zip(siblings, sides) if left]
        return climb(node, siblings, sides) == self.root and climb(node, inside, [True] * len(inside)) == old.root

    def lacks(self, key, path, other, **_):  # whether its map has no leaf of this key: its path ends at nothing, or at another leaf
        found, end = leaf(other) if other is not None else (None, EMPTY)
        apart = found is None or (found != key and found >> (256 - len(path)) == key >> (256 - len(path)))
        return apart and map_root(key, end, unhex(path)) == self.map_root


class Proof:  # its methods are the steps of the check
    def __init__(self, data, trust):  # 1: the file; its fields are attributes from here on
        self.trust = Trust(trust)
        need(len(data) <= 64 << 20 and data.endswith(b"\n"), "not a proof file")
        fields = parse(data[:-1], "trust.not-canonical")
        need(PROOF(fields) and fields["heads"][0]["consistency"] == [], "not what a proof of its claim and form consists of")
        told = digest(canonical({key: fields[key] for key in fields if key != "sum"}))
        need(fields["sum"] == told, "its sum does not fit: it was altered")
        vars(self).update(fields, kind=fields["claim"]["kind"], workload=fields["claim"].get("workload"))
        self.instants = [self.claim[key] for key in ("at_ns", "from_ns", "until_ns") if key in self.claim]
        need(self.instants == sorted(self.instants), "the end of the claim is before its beginning")

    def check_heads(self):  # 2: every head is signed, has an epoch in its tree, and continues the one before
        whole, old, given, self.heads = self.form == "log", None, self.heads, []
        self.root = self.trust.root(Head(given[0]).origin, self.roots)
        for head in map(Head, given):
            head.open(self.root.ledger_keys(head) if self.root else self.trust.ledgers, self.trust.witnesses)
            epoch = entry_of(head.entry, head.index) if whole else head.included(head.index, head.entry, head.path)
            need((epoch["kind"], epoch["workload"]) == ("epoch", "") and EPOCH(epoch["data"]), "what should be an epoch is not")
            vars(head).update(epoch["data"], time_ns=epoch["time_ns"])
            need(head.since <= head.index == head.covers, "an epoch does not cover the log")
            if old:
                ordered = old.index < head.since and old.time_ns < head.time_ns and old.size <= head.size
                need(ordered and old.origin == head.origin, "heads are not in order, or of two ledgers")
                need(whole or head.continues(old, unhex(head.consistency)), "the ledger was forked")
            self.heads, old = [*self.heads, head], head

    def around(self, at_ns):  # 3: the heads before (None: not needed) and after; the index below which all counts; which entries count
        after = next((place for place, head in enumerate(self.heads) if head.time_ns >= at_ns), None)
        need(after is not None, "the ledger in this proof ends before the instant", "prove.not-covered")
        end, since = self.heads[after].index, self.heads[after].since
        exact = self.heads[after].time_ns == at_ns or self.kind == "never-ran"
        before, sure = None if exact or since == 0 else after - 1, end if exact else since - 1
        need(before is None or (after > 0 and self.heads[before].index == sure), "these are not the two heads around the instant")
        return before, after, sure, lambda entry: entry["index"] < sure or (entry["index"] < end and entry["time_ns"] <= at_ns)

    def check_chain(self, sure):  # 4: the entries of the workload that it brings, and what is the case before the first and after each
        need(len(self.places) == len(self.heads), "it does not say of each head where the workload stands in its map")
        first = self.places[0]["count"] if self.form == "light" and sure >= 0 else 0
        start = beginning(self.workload) | (self.start or {}) | {"count": first}
        need((self.start is None) == (first == 0) and FACTS(start["facts"]), "it begins elsewhere in the chain than it says")
        entries = [self.heads[-1].included(**item) for item in self.entries]
        states, indexes = [*itertools.accumulate(entries, advance, initial=start)], [entry["index"] for entry in entries]
        need(indexes == sorted({*indexes}) and states[-1]["count"] == self.places[-1]["count"], "entries are missing, or too many")
        for place, head in zip(self.places, self.heads):
            now = states[sum(index < head.index for index in indexes)]
            need(place["count"] == now["count"], "an entry is not where the maps count it")
            shown = in_map(head, row_of(now), **place) if now["count"] else head.lacks(workload_key(self.workload), **place)
            need(shown, "a map does not say of the workload what its entries make")
        lacks = not self.absent or self.heads[-1].lacks(ran_key(self.workload, self.claim["release"]), **self.absent)
        need(lacks, "it does not show that the release was never started")
        return entries, states

    def check_log(self):  # 4, form `log`: everything made anew; gives all entries
        need(len(self.log) == self.heads[-1].size, "it does not bring the whole log")
        entries, now, ran, since, latest = [entry_of(*item) for item in zip(self.log, itertools.count())], {}, {}, 0, -1
        for entry in entries:
            name, said = entry["workload"], entry["data"]
            if entry["kind"] == "epoch":
                need(EPOCH(said) and (name, entry["actor"], entry["sealed"]) == ("", "ledger", {}), "what should be an epoch is not")
                root = map_of(sorted(map(leaf, [*map(row_of, now.values()), *ran.values()]))).hex()
                truth = said | {"covers": entry["index"], "map_root": root, "map_size": len(now), "since": since}
                stamp, since = max(entry["time_ns"] - said["behind_ns"], latest + 1), entry["index"] + 1
                need(said == truth and entry["time_ns"] == stamp >= said["behind_ns"], "an epoch does not commit to what precedes it")
            now[name], latest = advance(now.get(name, beginning(name)), entry), max(latest, entry["time_ns"])
            if started(entry):
                ran.setdefault((name, started(entry)), {"workload": name, "release": started(entry), "seq": entry["seq"]})
        for head in self.heads:
            epoch, root = self.log[head.index : head.size][:1], tree([*map(leaf_hash, self.log[: head.size])])
            need(epoch == [head.entry] and root == head.root, "entries do not lead to a head")
        return entries

    def check_maps(self, before, after, sure):  # 5: the first entry of each workload that is new; in place of others, an index of -2
        need(len(self.maps) == len(self.heads), "it does not bring the map of each head")
        for said, head in zip(self.maps, self.heads):
            leaves, rest = [leaf(row) for row in said["leaves"]], bytes.fromhex(said["rest"])
            need(leaves == sorted(dict(leaves).items()), "the leaves of a map are not sorted")
            root = map_of(leaves, 1) if rest == EMPTY and len(leaves) < 2 else branch(map_of(leaves, 1), rest)
            need((root.hex(), len(leaves)) == (head.map_root, head.map_size), "the workloads are not those of the signed map")
        names = [{row["workload"] for row in said["leaves"]} for said in self.maps]
        old = names[after] if sure == self.heads[after].index else set() if before is None else names[before]
        entries = [self.heads[-1].included(**item) for item in self.entries]
        new = [entry["workload"] for entry in entries if entry["seq"] == 0 and sure < entry["index"] < self.heads[after].index]
        proper = old <= names[after] and sorted(new) == sorted(names[after] - old) and len(new) == len(entries)
        need(proper, "it does not bring the first entry of each workload that was new, and no others")
        return [*entries, *({"workload": name, "seq": 0, "index": -2} for name in old)]

    def answer_of(self, entries, states, brackets):  # about one workload, and the releases that it names
        at_instants = [states[sum(1 for _ in itertools.takewhile(counts, entries))] for *_, counts in brackets]
        (begin, end), (old, new) = ([at_instants[place][key] for place in (0, -1)] for key in ("count", "facts"))
        if self.kind == "never-ran":
            need(all(started(entry) != self.claim["release"] for entry in entries), "the release was started")
            return {"exists": end > 0, "entries": end, "ran": False}, set()
        if self.kind == "state":
            return {"exists": end > 0, "entries": end, "state": new}, named_in(new)
        keys = ("index", "seq", "kind", "time_ns", "actor", "data", "sealed")
        between = [{key: entry[key] for key in keys} for entry in entries if begin <= entry["seq"] < end]
        return {"exists": end > 0, "from": old, "until": new, "between": between}, {*named_in(old), *named_in(new), *map(started, between)}

    def check_releases(self, named):  # 6: those that the answer names, and no others, each signed by whom the verifier believes
        need(len(self.releases) == len(named), "the releases that it brings are not those that the answer names")
        least, keys = self.root.release_keys(self.workload or "") if self.root and self.root.rules else (1, self.trust.releases)
        for release, name in zip(self.releases, named):
            manifest, config, statement = (utf8(release[part]) for part in ("manifest", "config", "statement"))
            said = None if self.form == "light" else parse(manifest)
            about = field(field(said, "annotations"), "dev.stele.workload"), field(field(said, "config"), "digest"), digest(manifest)
            bare = self.form == "light" and not manifest + config  # manifests come with all proofs but light ones
            need(bare or (config and about == (self.workload, digest(config), name)), "a release is another one, or of another workload")
            stated, subjects = parse(statement, strict=False), field(parse(statement, strict=False), "subject")
            about = [field(subject, "digest") for subject in subjects] if isinstance(subjects, list) else []
            proper = (field(stated, "_type"), field(stated, "predicateType")) == STATEMENT and {"sha256": name[7:]} in about
            need(proper and re.fullmatch(f"sha256:{HEX}", name) and len(statement) <= 1 << 19, "another release was signed")
            data = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(statement), statement)
            blobs = [unbase64(text) for text in release["signatures"] if re.fullmatch(BASE64, text)]
            held = [[who for who, key in keys if not attempt(key.verify, blob, data, ec.ECDSA(hashes.SHA256()))[1]] for blob in blobs]
            signers = {found[0] for found in held if found}  # a signature counts for one key only
            need(len(signers) >= least, "a release is not signed by whom you trust, or by too few")

    def verdict(self):  # what the proof says: claim, form, answer, private values, and when witnesses saw its heads
        self.check_heads()
        entries, brackets = self.check_log() if self.form == "log" else [], [*map(self.around, self.instants)]
        need({*range(len(self.heads))} == {place for bracket in brackets for place in bracket[:2]} - {None}, "it brings heads without need")
        if self.workload is None:
            *places, counts = brackets[0]
            first = [entry for entry in entries or self.check_maps(*places) if entry["seq"] == 0 and counts(entry)]
            answer, named, entries = {"workloads": sorted({entry["workload"] for entry in first} - {""})}, set(), []
        else:
            mine = [entry for entry in entries if entry["workload"] == self.workload]
            states = [*itertools.accumulate(mine, advance, initial=beginning(self.workload))]
            entries, states = (mine, states) if self.form == "log" else self.check_chain(brackets[0][2])
            answer, named = self.answer_of(entries, states, brackets)
        self.check_releases(sorted(named - {""}))
        sealed, order = {entry["index"]: entry["sealed"] for entry in entries}, [(item["index"], item["field"]) for item in self.openings]
        need(order == sorted({*order}), "openings are out of order")
        for index, *opening in ((item["index"], item["salt"], item["field"], item["value"]) for item in self.openings):  # 7
            need(field(sealed.get(index), opening[1]) == commitment(*opening), "an opening is not what the entry commits to")
        opened = [{key: opening[key] for key in ("index", "field", "value")} for opening in self.openings]
        return {"claim": self.claim, "form": self.form, "answer": answer, "opened": opened, "seen": [head.seen for head in self.heads]}


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        print(json.dumps(Proof(*(open(name, "rb").read((64 << 20) + 1) for name in sys.argv[1:])).verdict(), indent=1, sort_keys=True))
    except OSError as error:
        sys.exit(f"cannot be read: {error}")
    except ValueError as error:
        sys.exit("REFUSED [{1}]: {0}".format(*error.args))
