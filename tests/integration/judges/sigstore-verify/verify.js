// usage: node verify.js BUNDLE PUBLIC-KEY.pem HINT SHA256-HEX; exit status 0 and `ok` only if npm's verifier accepts the bundle by
// this key, as a signature of this digest. Run in a folder with node_modules (tests/judges.py, npm_judge).
"use strict";
const crypto = require("crypto");
const fs = require("fs");
const { createRequire } = require("module");
const load = createRequire(process.cwd() + "/");
const { bundleFromJSON } = load("@sigstore/bundle");
const { Verifier, toSignedEntity, toTrustMaterial } = load("@sigstore/verify");

const [, , file, keyFile, hint, digest] = process.argv;
const bundle = bundleFromJSON(JSON.parse(fs.readFileSync(file, "utf8")));
const key = crypto.createPublicKey(fs.readFileSync(keyFile));
const raw = { rawBytes: key.export({ type: "spki", format: "der" }), keyDetails: "PKIX_ECDSA_P256_SHA_256" };
const none = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] };
const verifier = new Verifier(toTrustMaterial(none, { [hint]: raw }), { tlogThreshold: 0, ctlogThreshold: 0, timestampThreshold: 0 });
verifier.verify(toSignedEntity(bundle));
// the library checks the signature; what it is of is the caller's to check, from the payload that was verified
const statement = JSON.parse(bundle.content.dsseEnvelope.payload.toString("utf8"));
if (!statement.subject.some((subject) => subject.digest.sha256 === digest)) throw new Error("it signs another digest");
console.log("ok");
