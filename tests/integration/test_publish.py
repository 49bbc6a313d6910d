"""`stele log publish` to a real S3-compatible storage with object lock (versitygw), seen by its other clients."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import botocore.exceptions
import pytest

from stele.host import s3
from stele.trust import trust_keys
from tests import judges
from tests import storage as versitygw
from tests.ledgers import OTHER, SIGNER, TRUST, event, opened
from tests.storage import ENV, SECRET

ROOT = Path(__file__).parents[2]
STELE = str(Path(sys.executable).with_name("stele"))


def with_attributes(folder):
    """The folder, or one in /var/tmp if its file system has no extended attributes: versitygw keeps versions and locks in them."""
    try:
        os.setxattr(folder, "user.test", b"")
    except OSError:
        return Path(tempfile.mkdtemp(dir="/var/tmp", prefix="stele-test-storage-"))
    return folder


@pytest.fixture(scope="module")
def storage(tmp_path_factory):
    """A running versitygw: its endpoint, a client of it, and where its objects are."""
    work = with_attributes(tmp_path_factory.mktemp("storage"))
    try:
        with versitygw.running(work) as (endpoint, client):
            yield endpoint, client, work / "objects"
    finally:
        shutil.rmtree(work)


@pytest.fixture
def bucket(storage, request):
    """A new bucket with object lock."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:60].strip("-")
    storage[1].create_bucket(Bucket=name, ObjectLockEnabledForBucket=True)
    return name


@pytest.fixture
def ledger(tmp_path):
    grow(tmp_path / "ledger", 600)
    (tmp_path / "trust.keys").write_bytes(trust_keys.encode(TRUST))
    return tmp_path / "ledger"


def grow(folder, count, **more):
    with opened(folder, **more) as made:
        made.append([event(number) for number in range(count)])
        made.publish()


def argv(storage, bucket, ledger, *options):
    here = ledger.parent
    return [
        STELE, "--data", str(here / "data"), "log", "publish", f"s3://{bucket}/logs/shop", "--endpoint", storage[0],
        "--ledger", str(ledger), "--trust", str(here / "trust.keys"), "--json", *options,
    ]  # fmt: skip


def publish(storage, bucket, ledger, *options, env=ENV):
    done = subprocess.run(argv(storage, bucket, ledger, *options), env={**os.environ, **env}, capture_output=True, text=True, check=False)
    assert SECRET not in done.stdout + done.stderr
    found = json.loads(done.stdout)
    return found.get("error", {}).get("code") or found


def test_what_is_published_is_locked_and_an_independent_client_reads_it(storage, bucket, ledger):
    endpoint, client, _ = storage
    found = publish(storage, bucket, ledger, "--retain", "30d", "--mode", "compliance", "--legal-hold", "--lock-partial")
    assert (found["size"], found["put"]) == (601, 3 + 4 + 1)
    assert client.head_object(Bucket=bucket, Key="logs/shop/tile/entries/002.p/89")["ObjectLockMode"] == "COMPLIANCE"
    head = client.head_object(Bucket=bucket, Key="logs/shop/tile/entries/000")
    assert (head["ObjectLockMode"], head["ObjectLockLegalHoldStatus"]) == ("COMPLIANCE", "ON")
    assert abs(head["ObjectLockRetainUntilDate"] - datetime.now(UTC) - timedelta(days=30)) < timedelta(hours=1)
    assert (head["ContentType"], head["CacheControl"]) == ("application/octet-stream", "public, max-age=31536000, immutable")
    head = client.head_object(Bucket=bucket, Key="logs/shop/checkpoint")
    assert (head["ContentType"], head["CacheControl"], head.get("ObjectLockMode")) == ("text/plain; charset=utf-8", "no-cache", None)
    everybody = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [everybody]}))
    program = judges.go_main(ROOT / "tests/integration/judges/tlog-http")
    url = f"{endpoint}/{bucket}/logs/shop/"
    done = subprocess.run([program, url, SIGNER.verifier.encode()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 601
    with urllib.request.urlopen(url + "checkpoint") as answer:
        assert answer.read() == (ledger / "checkpoint").read_bytes()


def test_what_is_locked_can_be_neither_removed_nor_unlocked_nor_replaced_unseen(storage, bucket, ledger):
    client = storage[1]
    publish(storage, bucket, ledger, "--retain", "30d", "--mode", "compliance", "--legal-hold")
    key = {"Bucket": bucket, "Key": "logs/shop/tile/entries/000"}
    version = client.head_object(**key)["VersionId"]
    attempts = [
        lambda: client.delete_object(**key, VersionId=version),
        lambda: client.delete_object(**key, VersionId=version, BypassGovernanceRetention=True),
        lambda: client.put_object_retention(
            **key, VersionId=version, Retention={"Mode": "GOVERNANCE", "RetainUntilDate": datetime.now(UTC) + timedelta(seconds=2)}
        ),
    ]
    for attempt in attempts:
        with pytest.raises(botocore.exceptions.ClientError) as raised:
            attempt()
        assert raised.value.response["ResponseMetadata"]["HTTPStatusCode"] in {400, 403}
    # the retention alone: without the hold it still stands
    client.put_object_legal_hold(**key, VersionId=version, LegalHold={"Status": "OFF"})
    with pytest.raises(botocore.exceptions.ClientError):
        client.delete_object(**key, VersionId=version)
    original = client.get_object(**key, VersionId=version)["Body"].read()
    with contextlib.suppress(botocore.exceptions.ClientError):
        client.put_object(**key, Body=b"rewritten")  # a newer version at most: the locked one stays
    assert client.get_object(**key, VersionId=version)["Body"].read() == original == (ledger / "tile/entries/000").read_bytes()


def test_a_legal_hold_holds_by_itself(storage, bucket, ledger):
    client = storage[1]
    publish(storage, bucket, ledger, "--legal-hold")
    key = {"Bucket": bucket, "Key": "logs/shop/tile/0/001"}
    version = client.head_object(**key)["VersionId"]
    with pytest.raises(botocore.exceptions.ClientError):
        client.delete_object(**key, VersionId=version)
    client.put_object_legal_hold(**key, VersionId=version, LegalHold={"Status": "OFF"})
    client.delete_object(**key, VersionId=version)
    assert publish(storage, bucket, ledger, "--legal-hold", "--again")["put"] == 1


def test_killed_on_the_way_it_goes_on(storage, bucket, ledger):
    grow(ledger, 20_000)
    options = ("--retain", "1d", "--workers", "2")
    objects = storage[2] / bucket / "logs/shop"
    with subprocess.Popen(argv(storage, bucket, ledger, *options), env={**os.environ, **ENV}, stdout=subprocess.DEVNULL) as process:
        while sum(1 for _ in (objects / "tile").rglob("*")) < 40:
            assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
    assert not (objects / "checkpoint").exists()
    found = publish(storage, bucket, ledger, *options)
    assert found["found"] >= 30
    assert found["size"] == 20_602
    assert publish(storage, bucket, ledger, *options)["put"] == 0


def test_another_history_and_a_bucket_that_was_turned_back_raise_an_alarm(storage, bucket, ledger, tmp_path):
    client, key = storage[1], "logs/shop/checkpoint"
    options = ("--retain", "1d")
    publish(storage, bucket, ledger, *options)
    old = (ledger / "checkpoint").read_bytes()
    grow(ledger, 10)
    publish(storage, bucket, ledger, *options)
    client.put_object(Bucket=bucket, Key=key, Body=old)
    assert publish(storage, bucket, ledger, *options) == "publish.rolled-back"
    assert publish(storage, bucket, ledger, *options, "--again")["size"] == 612
    fork = tmp_path / "fork" / "ledger"
    with opened(fork) as made:
        made.append([event(number, workload="forged") for number in range(700)])
        made.publish()
    (fork.parent / "trust.keys").write_bytes(trust_keys.encode(TRUST))
    assert publish(storage, bucket, fork, *options) == "publish.split-view"
    assert len(list((fork.parent / "data/published").glob("*.conflict-*"))) == 2
    foreign = tmp_path / "foreign" / "ledger"
    grow(foreign, 5, signer=OTHER)
    (foreign.parent / "trust.keys").write_bytes(trust_keys.encode(TRUST._replace(ledgers=(OTHER.verifier,))))
    assert publish(storage, bucket, foreign, *options) == "publish.foreign"


def test_a_bucket_that_protects_nothing_is_said(storage, bucket, ledger):
    client = storage[1]
    client.create_bucket(Bucket="plain")
    assert publish(storage, "plain", ledger, "--retain", "1d") == "publish.not-locked"
    assert publish(storage, "plain", ledger, "--without-lock")["size"] == 601
    assert publish(storage, bucket, ledger) == "publish.not-locked"
    rule = {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 3}}
    client.put_object_lock_configuration(Bucket=bucket, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule})
    assert publish(storage, bucket, ledger)["size"] == 601
    assert client.head_object(Bucket=bucket, Key="logs/shop/checkpoints/601")["ObjectLockMode"] == "GOVERNANCE"


def test_what_is_missing_or_refused_is_said(storage, bucket, ledger):
    assert publish(storage, "not-there", ledger, "--retain", "1d") == "s3.no-bucket"
    assert publish(storage, bucket, ledger, "--retain", "1d", env=ENV | {"AWS_SECRET_ACCESS_KEY": "wrong"}) == "s3.forbidden"
    nobody = {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(ledger.parent), "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    assert publish(storage, bucket, ledger, "--retain", "1d", env=nobody) == "s3.no-credentials"
    assert publish(storage, bucket, ledger, "--retain", "soon") == "publish.bad-retention"


def test_no_credential_is_logged(storage, bucket, ledger):
    command = argv(storage, bucket, ledger, "--retain", "1d")
    done = subprocess.run(
        [command[0], "--debug", *command[1:]],
        env={**os.environ, **ENV, "AWS_SESSION_TOKEN": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert not re.search(rf"{SECRET}|Signature|Authorization|X-Amz", done.stdout + done.stderr, re.IGNORECASE)
    assert logging.getLogger("botocore").level in {0, logging.WARNING}


def test_new_objects_are_written_the_short_way_and_whatever_else_comes_the_long_one(storage, bucket, monkeypatch):
    for name, value in ENV.items():
        monkeypatch.setenv(name, value)
    endpoint, client, _ = storage
    until = int(datetime.now(UTC).timestamp()) + 3600
    lock = s3.Retention("GOVERNANCE", until, hold=True)
    found = s3.Bucket(bucket, endpoint=endpoint)
    calls = []
    long_way = found._client.put_object
    found._client.put_object = lambda **given: calls.append(given["Key"]) or long_way(**given)

    def put(key, data=b"some bytes"):
        found.put(key, data, kind="text/plain", cache="no-cache", lock=lock, replaces="")

    for key in ("tile/0/x000/001", "a b+c/\u00e9~", "empty"):
        put(key, b"" if key == "empty" else key.encode())
    with pytest.raises(s3.ChangedError):
        put("empty")
    assert calls == []
    found._puts._base = "http://127.0.0.1:9/nobody/"
    put("by the client")
    found._puts._base = f"{endpoint}/no-such-bucket/"
    put("by the client, too")
    with pytest.raises(s3.ChangedError):
        put("empty")
    assert calls == ["by the client", "by the client, too", "empty"]
    for key in ("tile/0/x000/001", "a b+c/\u00e9~", "empty", "by the client"):
        head = client.head_object(Bucket=bucket, Key=key)
        assert (head["ContentType"], head["CacheControl"]) == ("text/plain", "no-cache")
        assert found.lock_of(key) == lock
    assert client.get_object(Bucket=bucket, Key="a b+c/\u00e9~")["Body"].read() == "a b+c/\u00e9~".encode()
