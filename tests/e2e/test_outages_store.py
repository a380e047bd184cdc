"""An object store that refuses, stalls, cuts what it sends, or is away: jobs are late, and no attempt is lost of it."""

from __future__ import annotations

import hashlib
import random
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.kills import counters, crew, history, rows, short_leased, submitted, wait_for_state
from tests.e2e.shared import until
from tests.e2e.stage import Stage
from tests.servers.faulty_proxy import PASS, Fault, FaultyProxy
from tests.servers.postgres import PostgresServer
from tests.servers.s3 import S3Bucket, S3Server

MIB = 1 << 20


@dataclass(frozen=True)
class Shaky:
    """A worker on a real S3 server, with a proxy between them that can spoil what passes."""

    stage: Stage
    proxy: FaultyProxy
    bucket: S3Bucket

    def put(self, size: int, seed: int) -> str:
        """Lays an object into the store, past the proxy; its URI."""
        key = f"in/{uuid.uuid4().hex}"
        self.bucket.client.put_object(Bucket=self.bucket.name, Key=key, Body=random.Random(seed).randbytes(size))
        return self.bucket.uri(key)

    def spoil(self, where: str, *faults: Fault, always: Fault = PASS) -> None:
        """What happens to the requests that match from now on."""
        self.proxy.where = re.compile(where)
        self.proxy.faults.extend(faults)
        self.proxy.always = always


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    """One that may be killed."""
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def deployment(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    migrated_template: str,
    tiny_models: Path,
    server: S3Server,
) -> Iterator[Shaky]:
    client = server.client()
    bucket = S3Bucket.create(server, client)
    with FaultyProxy(server.port) as proxy:
        environ = {
            "MEDIAMILL_STORE": "s3",
            "MEDIAMILL_S3_ENDPOINT": proxy.endpoint,
            "MEDIAMILL_S3_REGION": "us-east-1",
            "MEDIAMILL_S3_BUCKETS": f'{{"{bucket.name}": "rw"}}',
            "MEDIAMILL_S3_READ_S": "0.5",
            "MEDIAMILL_S3_CONNECT_S": "1",
            "MEDIAMILL_S3_ATTEMPTS": "3",
            "MEDIAMILL_OUTPUT_PREFIX": bucket.uri("derived/"),
            **server.environ,
        }
        folder = tmp_path_factory.mktemp("store")
        with short_leased(folder, postgres_server, migrated_template, tiny_models, **environ) as mill:
            crew(mill, 1)
            yield Shaky(mill, proxy, bucket)
    client.close()


@pytest.fixture
def shaky(deployment: Shaky) -> Iterator[Shaky]:
    yield deployment
    deployment.proxy.faults.clear()
    deployment.spoil("", always=PASS)


def reading(uri: str, **params: Any) -> dict[str, Any]:
    return {"type": "test.noop", "inputs": {"files": {"a": uri}}, "params": params}


def kinds(shaky: Shaky, id_: uuid.UUID) -> list[str]:
    return [event["kind"] for event in history(shaky.stage, id_)]


def succeeds_with_nothing_against_it(shaky: Shaky, ids: list[uuid.UUID]) -> None:
    for row in wait_for_state(shaky.stage, ids, "succeeded"):
        assert counters(row) == {}


def stored(shaky: Shaky, ids: list[uuid.UUID]) -> None:
    """Each job's one output is really there, and is what the database says."""
    for id_ in ids:
        [artifact] = shaky.stage.table.rows("SELECT key, content FROM artifacts WHERE job_id = :id", id=id_)
        body = shaky.bucket.client.get_object(Bucket=shaky.bucket.name, Key=artifact["key"])["Body"].read()
        assert hashlib.sha256(body).digest() == bytes(artifact["content"])


def was_postponed(shaky: Shaky, ids: list[uuid.UUID]) -> None:
    until(lambda: all("postponed" in kinds(shaky, id_) for id_ in ids), shaky.stage, 30)
    for row in rows(shaky.stage, ids):
        assert row["state"] in ("queued", "running")
        assert counters(row) == {}


def ended_once_after_a_wait(shaky: Shaky, id_: uuid.UUID) -> bool:
    """Whether the job was postponed, and then succeeded, once."""
    story = kinds(shaky, id_)
    return "postponed" in story and story[-1] == "succeeded" and story.count("succeeded") == 1


@pytest.mark.parametrize(
    "fault",
    [Fault(status=503), Fault(stall_after=MIB), Fault(cut_after=MIB)],
    ids=["refused", "stalled", "cut"],
)
def test_a_passing_fault_while_a_job_fetches_costs_it_nothing(shaky: Shaky, fault: Fault) -> None:
    seed = 7 + (fault.status or 0) + (fault.cut_after or 0)
    uri = shaky.put(3 * MIB, seed)
    shaky.spoil("GET .*/in/", fault, fault)
    [id_] = submitted(shaky.stage, [reading(uri)])
    succeeds_with_nothing_against_it(shaky, [id_])
    assert not shaky.proxy.faults
    assert kinds(shaky, id_) == ["submitted", "claimed", "succeeded"]
    [read] = shaky.stage.table.rows("SELECT content FROM job_inputs WHERE job_id = :id", id=id_)
    assert bytes(read["content"]) == hashlib.sha256(random.Random(seed).randbytes(3 * MIB)).digest()


def test_a_store_that_keeps_refusing_what_jobs_read_postpones_them_until_it_answers(shaky: Shaky) -> None:
    shaky.spoil(".*", always=Fault(status=503))
    ids = submitted(shaky.stage, [reading(shaky.put(1000, seed)) for seed in range(20)])
    was_postponed(shaky, ids)
    shaky.spoil("", always=PASS)
    succeeds_with_nothing_against_it(shaky, ids)
    assert all(ended_once_after_a_wait(shaky, id_) for id_ in ids)


def test_bodies_that_never_come_whole_postpone_the_job(shaky: Shaky) -> None:
    shaky.spoil("GET .*/in/", always=Fault(cut_after=100))
    [id_] = submitted(shaky.stage, [reading(shaky.put(MIB, 99))])
    was_postponed(shaky, [id_])
    shaky.spoil("", always=PASS)
    succeeds_with_nothing_against_it(shaky, [id_])
    assert ended_once_after_a_wait(shaky, id_)
    [read] = shaky.stage.table.rows("SELECT content FROM job_inputs WHERE job_id = :id", id=id_)
    assert bytes(read["content"]) == hashlib.sha256(random.Random(99).randbytes(MIB)).digest()


def test_outputs_that_the_store_does_not_take_postpone_the_job_and_are_stored_once(shaky: Shaky) -> None:
    shaky.spoil("PUT .*/derived/", always=Fault(status=503))
    ids = submitted(shaky.stage, [{"type": "test.noop", "params": {"output_bytes": 1000 + n}} for n in range(10)])
    was_postponed(shaky, ids)
    shaky.spoil("", always=PASS)
    succeeds_with_nothing_against_it(shaky, ids)
    assert all(ended_once_after_a_wait(shaky, id_) for id_ in ids)
    stored(shaky, ids)


def test_a_store_that_is_killed_and_comes_back_is_waited_for(shaky: Shaky, server: S3Server) -> None:
    uris = [shaky.put(1000, seed) for seed in range(100, 110)]
    server.kill()
    ids = submitted(shaky.stage, [reading(uri, output_bytes=500 + n) for n, uri in enumerate(uris)])
    was_postponed(shaky, ids)
    server.start()
    succeeds_with_nothing_against_it(shaky, ids)
    assert all(ended_once_after_a_wait(shaky, id_) for id_ in ids)
    stored(shaky, ids)
