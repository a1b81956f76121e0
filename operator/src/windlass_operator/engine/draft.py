"""One model's record while a pass works on it, with the events that its changes cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from windlass_contract.failures import Failure
from windlass_contract.plan import Blocked
from windlass_contract.record import ModelRecord, RolloutRecord, Verdict, VersionRef

from .interface import Event

MAX_VERDICTS = 50
UNDONE = "Undone"
"""Why a person holds a version."""


@dataclass
class Draft:
    """Changes go through the methods, so that none happens without its verdict and its event."""

    model: str
    record: ModelRecord
    names: Mapping[tuple[int, str], str] = field(default_factory=dict)
    """Names of the ModelVersions by version and digest."""
    events: list[Event] = field(default_factory=list)

    def change(self, **update: Any) -> None:
        """Sets fields of the record."""
        self.record = self.record.model_copy(update=update)

    def change_rollout(self, **update: Any) -> None:
        """Sets fields of the running rollout."""
        rollout = self.record.rollout
        if rollout is None:
            raise ValueError(f"model {self.model} has no rollout to change")
        self.change(rollout=rollout.model_copy(update=update))

    def say(self, ref: VersionRef, kind: Literal["Normal", "Warning"], reason: str, message: str) -> None:
        """Adds an event."""
        name = self.names.get((ref.version, ref.digest), ref.model_version)
        self.events.append(Event(name, kind, reason, message))

    def judge(
        self, ref: VersionRef, outcome: str, message: str, failure: Failure | None = None, replica: str = ""
    ) -> None:
        """Remembers how a rollout or a version's service ended. The epoch is filled in when the plan has one."""
        verdict = Verdict(
            version=ref.version, digest=ref.digest, outcome=outcome, failure=failure, replica=replica, message=message
        )
        self.change(verdicts=[*self.record.verdicts, verdict][-MAX_VERDICTS:])

    def quarantine(self, ref: VersionRef, reason: str, message: str) -> None:
        """Blocks a digest, and through its content digest the same files packed anew."""
        if not any(each.digest == ref.digest for each in self.record.quarantine):
            self.change(quarantine=[*self.record.quarantine, blocked(ref, reason, message)])

    def hold(self, ref: VersionRef, reason: str, message: str) -> None:
        """Holds a digest for this server, which says nothing about its files; a person clears it."""
        if not any(each.digest == ref.digest for each in self.record.holds):
            self.change(holds=[*self.record.holds, blocked(ref, reason, message)])

    def block(self, ref: VersionRef, failure: Failure) -> None:
        """What a failure under real traffic leads to: quarantine if it is a verdict on the files, else a hold."""
        block = self.quarantine if failure.is_verdict else self.hold
        block(ref, failure.reason, failure.message)

    def end_rollout(self) -> RolloutRecord | None:
        """Forgets the running rollout, and with it the candidate's place."""
        rollout = self.record.rollout
        self.change(rollout=None)
        return rollout

    def go_back(self) -> None:
        """To the previous version, which is resident: one write of the plan, and nobody is waited for."""
        self.change(committed=self.record.previous, previous=None, previous_seconds=0.0, unclaimed_seconds=0.0)


def blocked(ref: VersionRef, reason: str, message: str) -> Blocked:
    """The entry of quarantine or holds for a version."""
    extra = {} if ref.content_digest is None else {"content_digest": ref.content_digest}
    return Blocked(version=ref.version, digest=ref.digest, reason=reason, message=message[:1000], **extra)


def block_of(record: ModelRecord, digest: str, content_digest: str | None = None) -> Blocked | None:
    """Why a digest may not be served, or None. A hold comes first: it is what a person said."""
    for each in (*record.holds, *record.quarantine):
        if each.digest == digest:
            return each
    if content_digest is not None:
        for each in record.quarantine:
            if each.content_digest == content_digest:
                return each
    return None
