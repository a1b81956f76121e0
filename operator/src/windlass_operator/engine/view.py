"""What one pass found and decided about a model: statuses are made from it."""

from __future__ import annotations

from dataclasses import dataclass

from windlass_contract.record import ModelRecord, Verdict, VersionRef

from .desired import Claim, claim_of, desired
from .prepare import Preparation


@dataclass(frozen=True)
class View:
    """One model after the pass."""

    model: str
    record: ModelRecord
    claims: tuple[Claim, ...]
    ready: Preparation | None
    """How far the replicas are with the candidate."""
    waits_for: str = ""
    """The model whose rolling update of the Pods has to end first."""

    def role_of(self, claim: Claim) -> str:
        """`committed`, `previous`, `candidate`, or nothing."""
        record = self.record
        candidate = None if record.rollout is None else record.rollout.candidate
        for role, ref in (("committed", record.committed), ("candidate", candidate), ("previous", record.previous)):
            if claim.matches(ref):
                return role
        return ""

    def last_verdict(self, claim: Claim) -> Verdict | None:
        """The newest one on this digest."""
        verdicts = [each for each in self.record.verdicts if each.digest == claim.digest]
        return verdicts[-1] if verdicts else None

    @property
    def desired(self) -> Claim | None:
        """The version that is wanted."""
        return desired(self.claims, self.record)

    @property
    def unclaimed(self) -> VersionRef | None:
        """What serves without a ModelVersion."""
        committed = self.record.committed
        return committed if committed is not None and claim_of(self.claims, committed) is None else None


def remarks_of(views: dict[str, View]) -> tuple[str, ...]:
    """What is to be said of the models, rather than of a ModelVersion."""
    remarks = []
    for view in views.values():
        committed, rollout = view.record.committed, view.record.rollout
        if view.unclaimed is not None:
            remarks.append(f"model {view.model}: version {view.unclaimed.version} is serving, no ModelVersion")
        if committed is None and any(claim.active for claim in view.claims):
            running = f"; version {rollout.candidate.version} is being prepared" if rollout is not None else ""
            remarks.append(f"model {view.model} is not served{running}")
    return tuple(remarks)
