"""What a message has to pass in this deployment, wherever it comes from."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version

from config.lanes import Lane
from console.compose import Deployment
from intake.message import Rules
from intake.rejections import build_of
from intake.replay import Door


def door_of(deployment: Deployment) -> Door:
    """The door of a deployment: of each lane's topic, and of messages that came by none."""
    general = deployment.message_rules

    def rules_for(lane: Lane | None) -> Rules:
        return replace(general, lane=lane)

    build = build_of(version("mediamill"), deployment.registry, general.checkpoints)
    return Door(deployment.registry, rules_for, build)
