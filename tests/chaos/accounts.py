"""What is there when all is over, beside what was asked for: each message, job, object and event by its identity."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from statistics import median
from typing import Any

from intake.message import sha256_of
from tests.chaos.lanes import Lanes
from tests.chaos.messages import Fate
from tests.chaos.verdict import Verdict
from tests.fixtures import JobTable
from tests.servers.kafka import Kafka
from tests.servers.s3 import S3Bucket

ENDS = ("succeeded", "failed", "cancelled", "quarantined")


@dataclass(slots=True)
class Report(Verdict):
    """What is left when all is over."""

    messages: int
    seconds: float
    states: dict[str, int]
    events: list[str]
    rejections: int = 0
    duplicates: int = 0
    published: int = 0
    published_again: int = 0
    """Result events that are on the topic more than once, under one event id."""
    reclaim_s: list[float] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """For people."""
        jobs = self.messages - self.rejections - self.duplicates
        yield (
            f"messages   {self.messages:,} in {self.seconds:.0f} s ="
            f" {jobs:,} jobs + {self.rejections} rejections + {self.duplicates} duplicates"
        )
        yield f"jobs       {json.dumps(self.states)}"
        yield f"results    {self.published:,} events, {self.published_again} of them again under their event id"
        yield f"events     {len(self.events)}: {', '.join(self.events)}"
        reclaim = f"p50 {median(self.reclaim_s):.1f} s, max {max(self.reclaim_s):.1f} s" if self.reclaim_s else "none"
        yield f"reclaim    {reclaim} (worker's death to its jobs' return, {len(self.reclaim_s)} jobs)"
        yield from self.faults()


class Accounts:
    """Compares."""

    def __init__(
        self, table: JobTable, lanes: Lanes, kafka: Kafka, bucket: S3Bucket, again: Counter[str], report: Report
    ) -> None:
        """`again`: job -> how often somebody has asked for it again after its end. `report` is filled in."""
        self._table = table
        self._lanes = lanes
        self._kafka = kafka
        self._bucket = bucket
        self._again = again
        self._report = report
        self._rejected_objects: dict[str, bytes] = {}

    def close(self) -> Report:
        """Everything."""
        self.messages()
        self.ends()
        self.counts()
        self.results()
        self.objects()
        self.embeddings()
        return self._report

    def messages(self) -> None:
        """Each message is a job, a rejection or a duplicate, and there is nothing else."""
        jobs = {
            str(row["id"]): row
            for row in self._table.rows("SELECT id, type, state, body_sha256 FROM jobs WHERE type <> 'image.embed'")
        }
        for sent in self._lanes.sent:
            fate, job = sent.draft.fate, jobs.get(sent.job_id)
            if fate in (Fate.JOB, Fate.DUPLICATE):
                assert sent.draft.message is not None
                if job is None:
                    self._report.lost.append(f"{fate} {sent.job_id} of {sent.topic}/{sent.partition}/{sent.offset}")
                elif bytes(job["body_sha256"]) != sha256_of(sent.draft.message):
                    self._report.wrong.append(f"{sent.job_id} is of another body")
                elif job["state"] != (wanted := "failed" if sent.draft.kind == "bad" else "succeeded"):
                    self._report.wrong.append(f"{sent.job_id} ({sent.draft.kind}) is {job['state']}, not {wanted}")
        wanted_jobs = {sent.job_id for sent in self._lanes.of(Fate.JOB)}
        self._report.wrong += [f"job {id_} was never asked for" for id_ in jobs.keys() - wanted_jobs]
        self._rejections()
        fates = self._lanes.fates()
        self._report.duplicates = fates[Fate.DUPLICATE] + fates[Fate.DEDUPLICATED]
        if len(jobs) + self._report.rejections + self._report.duplicates != self._report.messages:
            self._report.wrong.append(f"{len(jobs)} jobs do not make up the sum of messages")

    def _rejections(self) -> None:
        rows = {
            str(row["id"]): row
            for row in self._table.rows(
                'SELECT id, topic, partition, "offset", size, body, body_uri, body_at FROM rejected_messages'
            )
        }
        self._report.rejections = len(rows)
        for sent in self._lanes.of(Fate.REJECTED):
            row = rows.pop(sent.record_id, None)
            if row is None:
                self._report.lost.append(f"rejection ({sent.draft.kind}) {sent.topic}/{sent.partition}/{sent.offset}")
            elif (row["topic"], row["partition"], row["offset"]) != (sent.topic, sent.partition, sent.offset):
                self._report.wrong.append(f"rejection {sent.record_id} says another place")
            elif self._body(row) != sent.draft.value:
                self._report.wrong.append(f"rejection {sent.record_id} ({sent.draft.kind}) has other bytes")
        self._report.wrong += [
            f"{row['topic']}/{row['partition']}/{row['offset']} is rejected" for row in rows.values()
        ]

    def _body(self, row: dict[str, Any]) -> bytes | None:
        if row["body_uri"] is None:
            return None if row["body"] is None else bytes(row["body"])
        key = row["body_uri"].removeprefix(self._bucket.uri(""))
        if key not in self._rejected_objects:
            answer = self._bucket.client.get_object(Bucket=self._bucket.name, Key=key)
            self._rejected_objects[key] = answer["Body"].read()
        return self._rejected_objects[key][row["body_at"] :][: row["size"]]

    def ends(self) -> None:
        """Each job has ended once, and once more for each time that somebody asked for it again."""
        for row in self._table.rows(f"""
            SELECT id, count(*)::int AS n, count(DISTINCT attempt)::int AS attempts FROM job_events
            WHERE state IN {ENDS} GROUP BY id
        """):
            if row["n"] != 1 + self._again[str(row["id"])] or row["attempts"] != row["n"]:
                self._report.doubled.append(f"{row['id']} ended {row['n']} times")

    def counts(self) -> None:
        """The dashboards' view says the same as the table."""
        if (counted := self._table.counts()) != self._report.states:
            self._report.wrong.append(f"ops.job_counts says {counted}")
        if left := self._table.rows("SELECT count(*)::int AS n FROM outbox")[0]["n"]:
            self._report.wrong.append(f"{left} events are left in the outbox")
        if lost := self._table.rows("SELECT count(*)::int AS n FROM lost_ranges")[0]["n"]:
            self._report.lost.append(f"{lost} ranges are said to have expired unread")

    def results(self) -> None:
        """Each end of a job is one event on the results topic, all of a job on one partition and in their order."""
        ended = {
            (str(row["id"]), row["attempt"], row["state"])
            for row in self._table.rows(f"SELECT id, attempt, state FROM job_events WHERE state IN {ENDS}")
        }
        first: dict[str, tuple[str, int, str]] = {}
        attempts: dict[str, list[int]] = defaultdict(list)
        partitions: dict[str, set[int]] = defaultdict(set)
        for record in self._kafka.consume(self._kafka.name("results"), within_s=60):
            event = json.loads(record.value)
            job, data = event["subject"], event["data"]
            self._report.published += 1
            if record.key != job.encode() or event["type"] != f"mediamill.job.{data['state']}":
                self._report.wrong.append(f"event {event['id']} does not agree with itself")
            partitions[job].add(record.partition)
            if event["id"] in first:
                self._report.published_again += 1
                continue
            first[event["id"]] = (job, data["attempt"], data["state"])
            attempts[job].append(data["attempt"])
        said = Counter(first.values())
        self._report.lost += [f"event of {end}" for end in ended - said.keys()]
        self._report.wrong += [f"event of {end}, which never was" for end in said.keys() - ended]
        self._report.doubled += [f"{n} events of {end}" for end, n in said.items() if n > 1]
        self._report.wrong += [
            f"events of {job} out of order: {of}" for job, of in attempts.items() if of != sorted(of)
        ]
        self._report.wrong += [f"events of {job} on {of}" for job, of in partitions.items() if len(of) > 1]

    def objects(self) -> None:
        """Each succeeded job that makes an output has one; its bytes are there; and nothing else is, but for sweeps."""
        artifacts = self._table.rows("SELECT job_id, key, encode(content, 'hex') AS sha256, size FROM artifacts")
        having = {str(a["job_id"]) for a in artifacts}
        if len(having) != len(artifacts):
            self._report.doubled.append(f"{len(artifacts) - len(having)} artifacts too many")
        for sent in self._lanes.of(Fate.JOB):
            makes = sent.draft.kind in ("caption", "output")
            if makes != (sent.job_id in having):
                said = f"artifact {'missing' if makes else 'too many'}"
                self._report.wrong.append(f"{sent.job_id} ({sent.draft.kind}): {said}")
        stored = dict(self._stored("derived/"))
        for artifact in artifacts:
            body = stored.pop(artifact["key"], None)
            if body is None:
                self._report.lost.append(f"object {artifact['key']}")
            elif sha256(body).hexdigest() != artifact["sha256"]:
                self._report.wrong.append(f"object {artifact['key']} has other bytes than its artifact")
        self._left_over(set(stored))

    def _left_over(self, keys: set[str]) -> None:
        due = {(str(row["job_id"]), row["attempt"]) for row in self._table.rows("SELECT job_id, attempt FROM sweeps")}
        known = {row["uri"] for row in self._table.rows("SELECT uri FROM rejected_objects")}
        for key in keys:
            if key.startswith("derived/rejected/"):
                if self._bucket.uri(key) not in known:
                    self._report.wrong.append(f"object {key} holds rejected messages, and nobody knows of it")
                continue
            _, job, attempt, _ = key.split("/")
            if (job, int(attempt.partition("-")[0])) not in due:
                self._report.wrong.append(f"object {key} is nobody's, and will not be swept")

    def embeddings(self) -> None:
        """Each picture that a job has read has its embedding, once."""
        doubled = self._table.rows("SELECT content FROM embeddings GROUP BY content, space HAVING count(*) > 1")
        self._report.doubled += [f"embedding of {bytes(row['content']).hex()}" for row in doubled]
        missing = self._table.rows("""
            SELECT DISTINCT i.content FROM job_inputs i JOIN jobs j ON j.id = i.job_id
            WHERE j.type = 'image.caption' AND j.state = 'succeeded'
              AND NOT EXISTS (SELECT FROM embeddings e WHERE e.content = i.content)
        """)
        self._report.lost += [f"embedding of {bytes(row['content']).hex()}" for row in missing]

    def _stored(self, prefix: str) -> Iterator[tuple[str, bytes]]:
        pages = self._bucket.client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket.name, Prefix=prefix)
        for page in pages:
            for there in page.get("Contents", []):
                answer = self._bucket.client.get_object(Bucket=self._bucket.name, Key=there["Key"])
                yield there["Key"], answer["Body"].read()
