"""Stands in for `docker compose` where there is no Docker: the README's commands, with the tests' servers behind them.

What is started in the container of Kafka is Kafka's own program, from the jars of the tests' broker; what is started
in the worker's is mediamill.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from tests.servers.kafka import JARS

_PROGRAMS = {
    "/opt/kafka/bin/kafka-console-producer.sh": "org.apache.kafka.tools.ConsoleProducer",
    "/opt/kafka/bin/kafka-console-consumer.sh": "org.apache.kafka.tools.consumer.ConsoleConsumer",
}


def command(arguments: Sequence[str], bootstrap: str) -> list[str]:
    """What to run for `docker ARGUMENTS`. Raises ValueError for anything that the README does not say."""
    match list(arguments):
        case ["compose", "up", "--build", "--detach", "--wait", "worker"]:
            return ["true"]
        case ["compose", "exec", "-T", "worker", "mediamill", *rest]:
            return [sys.executable, "-m", "console", *rest]
        case ["compose", "exec", "-T", "kafka", program, "--bootstrap-server", "kafka:19092", *rest]:
            java = ["java", "-XX:TieredStopAtLevel=1", "-Dlog4j2.level=ERROR", "-cp", f"{JARS}/*"]
            return [*java, _PROGRAMS[program], "--bootstrap-server", bootstrap, *rest]
    raise ValueError(f"docker {' '.join(arguments)}")


if __name__ == "__main__":
    run = command(sys.argv[1:], os.environ["BOOTSTRAP"])
    os.execvp(run[0], run)  # noqa: S606 the same process, with its input and output
