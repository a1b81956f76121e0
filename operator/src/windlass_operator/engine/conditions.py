"""Conditions as Kubernetes wants them."""

from __future__ import annotations

import re

from windlass_contract.model_version import Condition, ConditionStatus, ConditionType


class Conditions:
    """Collects the conditions of one object."""

    def __init__(self, generation: int) -> None:
        self._generation = generation
        self._conditions: list[Condition] = []

    def add(self, kind: ConditionType, status: ConditionStatus, reason: str, message: str = "") -> None:
        """Adds one. A reason is CamelCase; what isn't becomes `Unknown`, since a status must always be writable."""
        self._conditions.append(
            Condition(
                type=kind,
                status=status,
                reason=reason if re.fullmatch(r"[A-Z][A-Za-z0-9]*", reason) else "Unknown",
                message=message,
                observed_generation=self._generation,
            )
        )

    def add_if(self, kind: ConditionType, true: bool, reason: str, message: str = "") -> None:
        """Adds one that is True or False."""
        self.add(kind, ConditionStatus.TRUE if true else ConditionStatus.FALSE, reason, message)

    def list(self) -> list[Condition]:
        """In the order they were added."""
        return self._conditions
