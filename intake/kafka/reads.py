"""What ingest reads, and its limits of time and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from config.lanes import Lane
from config.settings import Settings


@dataclass(frozen=True, slots=True)
class Reads:
    """Which topics are read, by which group, and when what is done. Times in seconds."""

    group: str
    topics: Mapping[Lane, str]
    lane_cap: int
    """Runnable jobs of a lane in Postgres at which its topic is not read for a while."""
    batch: int = 500
    """Records in a transaction."""
    poll_s: float = 0.5
    fetch_bytes: int = 16 << 20
    """Of one answer of a broker; what is fetched ahead is a few of these."""
    session_s: float = 10
    """After this silence the group gives a dead member's partitions to the others."""
    heartbeat_s: float = 3
    """A third of the session, at most."""
    turn_s: float = 120
    """The longest turn (a batch's transaction and its tries), and the longest that a rebalance waits for a member."""
    metadata_s: float = 10
    """Age of what is known of topics: so late it is seen at most that one was made anew, or has more partitions."""
    answer_s: float = 10
    """For a commit, and for each other question to the brokers."""
    close_s: float = 5
    survey_s: float = 5
    """Between two looks at how much there is of each partition."""
    stuck_s: float = 60
    """A partition with messages that is not read for so long, although nothing stops it, has a stuck consumer."""
    revalidate_s: float = 600
    wait_s: float = 0.1
    """The first pause after a failure; each further one doubles it."""
    most_wait_s: float = 5

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """As a deployment has it."""
        session_s = settings.kafka_session
        return cls(
            group=settings.kafka_group,
            topics=settings.lane_topics,
            lane_cap=settings.lane_cap,
            session_s=session_s,
            heartbeat_s=min(3.0, session_s / 3),
        )
