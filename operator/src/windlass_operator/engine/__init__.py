"""The rollout engine, pure and level-triggered.

`(model versions, record, reports, clock) -> (plan, record, statuses, events)`; it never sleeps or does I/O.
"""

from .reconcile import reconcile
from .status import merge_transition_times

__all__ = ["merge_transition_times", "reconcile"]
