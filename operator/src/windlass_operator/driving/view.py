"""What a driver sees of a server, besides its durable object and the reports of its replicas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from windlass_contract.decision import DecisionSpec
from windlass_operator.engine.interface import SeenModelVersion, SeenReplica, SeenTemplate


@dataclass(frozen=True)
class ServerView:
    """What people want of one server, and who the orchestrator says its replicas are."""

    model_versions: tuple[SeenModelVersion, ...] = ()
    decisions: tuple[DecisionSpec, ...] = ()
    """In the order in which they are to be taken."""
    frozen: str = ""
    samples: Mapping[str, bytes] = field(default_factory=dict)
    """By digest."""
    replicas: tuple[SeenReplica, ...] | None = None
    """None: there is no orchestrator to ask."""
    template: SeenTemplate | None = None
    """What the replicas are made from; None: there is no such thing."""
