"""What tests of publishing share."""

from __future__ import annotations

from collections.abc import Sequence

from intake.kafka.publisher import Answer, Refusal


def codes(answers: Sequence[Answer]) -> list[str | None]:
    """Why each was refused; None where it was not."""
    return [answer.code if isinstance(answer, Refusal) else None for answer in answers]
