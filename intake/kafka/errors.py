"""What goes wrong with Kafka, in three kinds that call for different things."""

from __future__ import annotations


class KafkaTrouble(Exception):
    """Kafka cannot be used at this moment; the text is a sentence for whoever runs mediamill."""


class BrokerAway(KafkaTrouble):
    """No broker answers, or not in time: waiting may help. What was asked for may have happened or not."""


class NotAllowed(KafkaTrouble):
    """The broker knows us not, or may not do this for us: somebody has to change a setting or an ACL."""


class BadTopic(KafkaTrouble):
    """A topic is missing and may not be made, or cannot be made as the settings want it."""


def plain(error: BaseException) -> str:
    """One line: the client's name for the error, and what it says."""
    name = type(error).__name__.removesuffix("Error")
    said = " ".join(str(argument) for argument in error.args if argument)
    return f"{name}: {' '.join(said.split())}" if said else name
