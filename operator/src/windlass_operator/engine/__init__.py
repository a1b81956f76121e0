"""The rollout engine, pure and level-triggered.

`(model versions, record, reports, clock) -> (plan, record, statuses, events)`; it never sleeps or does I/O.
"""
