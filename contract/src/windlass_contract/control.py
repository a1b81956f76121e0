"""The control endpoint's protocol: a replica subscribes to its plan and posts its report over one connection.

`GET  {PLAN_PATH}?epoch=N&digest=D&instance=I&hold=S` answers `PlanAnswer` at once when the plan isn't the one named by
epoch and digest, else when it changes, else with the same after at most `hold` seconds (none: `POLL_SECONDS`).
`POST {REPORT_PATH}` takes a `ServingReport` and answers `ReportAnswer`, which says when the next report is due.
`GET  {SAMPLES_PATH}` answers the bytes of acceptance samples, whose sha256 is the digest.
Each carries `Authorization: Bearer <control token>`; a token names one server: another's path is 403, no or an
unknown token 401. Errors: `{"error": "…"}`. An operator that doesn't act (no lease, still gathering after its start)
answers 503.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .document import Document
from .plan import Epoch, ServingPlan

CONTROL_PORT = 8010
OPERATOR_METRICS_PORT = 8011
SERVER_PORT = 8000
SERVER_METRICS_PORT = 8001

PLAN_PATH = "/control/v1/servers/{server}/plan"
REPORT_PATH = "/control/v1/servers/{server}/reports"
SAMPLES_PATH = "/control/v1/servers/{server}/samples/{digest}"
MAX_REPORT_BYTES = 4 * 1024 * 1024

POLL_SECONDS = 5.0
"""How long the operator holds a poll that has no news, and doesn't say how long it may be held."""
LONG_POLL_SECONDS = 25.0
"""The same for a replica that posts reports: their answers are what it hears from the operator meanwhile, and name the
epoch, so that a poll which got lost on its way hides no plan. Less than the half minute after which proxies cut."""
SILENCE_SECONDS = 10.0
"""A replica that had no answer for so long connects anew."""
REPORT_SECONDS = 1.0
"""Between reports; one goes out at once when something changed."""
QUIET_REPORT_SECONDS = 3.0
"""The same, at most, while the operator says that nothing is under way for the server: with many replicas these reports
are nearly all that an idle operator does. Late by up to 2 s, as on a busy machine, a replica is subscribed still."""
SUBSCRIBED_SECONDS = 5.0
"""Who reported within this time is subscribed; an operator acts only on a hold confirmed within it."""
GATHER_SECONDS = 2 * REPORT_SECONDS
"""After its start, without an orchestrator, an operator changes nothing for so long."""
GATHER_SECONDS_ORCHESTRATED = 15.0

MODEL_VERSION_HEADER = "X-Model-Version"
MODEL_DIGEST_HEADER = "X-Model-Digest"
PLAN_EPOCH_HEADER = "X-Plan-Epoch"
INSTANCE_HEADER = "X-Instance"


class PlanAnswer(Document):
    """None: there is no plan for this server, and the operator is sure of it."""

    plan: ServingPlan | None


class ReportAnswer(Document):
    """The operator's epoch, what is renewed by it, and when it wants to hear more."""

    epoch: Epoch | None = None
    """None: there is no plan."""
    renewed: Annotated[list[str], Field(max_length=1000)] = []
    """Models whose candidate's weight is renewed, for `epoch`."""
    report_seconds: Annotated[float, Field(gt=0)] = REPORT_SECONDS
    """After which the next report is due if nothing changes until then; `between_reports` bounds it. To the point: the
    operator may want many at once, which costs it a fraction of what they cost one by one."""


def between_reports(asked: float) -> float:
    """Seconds until a replica's next report, when the operator asked for one after `asked`. Whatever that is, the
    replica stays subscribed, and reports no more often than is normal.
    """
    return min(max(asked, REPORT_SECONDS), QUIET_REPORT_SECONDS)
