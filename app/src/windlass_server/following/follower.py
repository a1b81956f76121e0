"""Follows the plan: gathers what the sources offer, takes the newest, keeps a copy, and tells what goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog

from windlass_contract.control import ReportAnswer
from windlass_contract.document import DocumentError
from windlass_contract.plan import ServingPlan
from windlass_contract.report import ServingReport
from windlass_contract.samples import AcceptanceSamples
from windlass_server.following import durable_plan, plan_copy
from windlass_server.following.choice import Offer, choose
from windlass_server.following.durable_plan import DurablePlan
from windlass_server.health import PlanSource
from windlass_server.hosting.host import SamplesUnavailable

if TYPE_CHECKING:
    from windlass_server.following.subscription import Subscription

log = structlog.get_logger(__name__)

FIRST_ANSWER_SECONDS = 4.0
"""How long a starting replica waits for the operator before it loads what its copy says: the copy may be old, and who
arrives later starts on the committed version. Longer than an operator gathers after its own start."""


class PlanHolder(Protocol):
    """Who makes a plan true: a replica's host, or a fetcher."""

    @property
    def server(self) -> str: ...
    @property
    def plan(self) -> ServingPlan | None: ...
    def apply(self, plan: ServingPlan) -> None: ...
    def begin(self) -> None: ...
    def renew(self, epoch: int, models: list[str]) -> None: ...
    def report(self, *, ready: bool, draining: bool, plan_conflict: bool) -> ServingReport: ...


class Follower:
    """The plan of a managed replica, or of a fetcher. Implements `Subscriber`."""

    def __init__(
        self,
        host: PlanHolder,
        *,
        state_dir: Path | None,
        plan_file: Path | None,
        connect: Callable[[Follower], Subscription] | None,
        is_ready: Callable[[], bool],
        is_draining: Callable[[], bool],
    ) -> None:
        """`state_dir`: where the copy is kept; None: nowhere. `connect` makes the subscription, if there is one."""
        self._host = host
        self._state_dir = state_dir
        self._durable = DurablePlan(plan_file) if plan_file is not None else None
        self.subscription = connect(self) if connect is not None else None
        self._is_ready = is_ready
        self._is_draining = is_draining
        self.conflict = False
        self._no_plan = False
        self._refusals: dict[str, str] = {}
        """Why a source's plan isn't taken, by source."""
        self._copy_problem = ""
        self._unsaved = asyncio.Event()

    @property
    def plan(self) -> ServingPlan | None:
        """The plan followed."""
        return self._host.plan

    @property
    def source(self) -> PlanSource:
        """Where the plan comes from."""
        if self.plan is not None:
            return PlanSource.OPERATOR
        return PlanSource.NO_PLAN if self._no_plan else PlanSource.WAITING

    def problems(self) -> list[str]:
        """What is amiss with the sources, each in a sentence."""
        found = list(self._refusals.values())
        if self.subscription is not None and self.subscription.problem:
            found.append(self.subscription.problem)
        if self._durable is not None and self._durable.problem:
            found.append(self._durable.problem)
        if self._copy_problem:
            found.append(self._copy_problem)
        return found

    async def run(self) -> None:
        """Follows until cancelled."""
        offers = [*await asyncio.to_thread(self._own_copy), *await asyncio.to_thread(self._look)]
        self._offer(offers)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_copy())
            if self._durable is not None:
                tasks.create_task(self._watch())
            if self.subscription is not None:
                tasks.create_task(self.subscription.run())
                try:
                    async with asyncio.timeout(FIRST_ANSWER_SECONDS):
                        await self.subscription.settled.wait()
                except TimeoutError:
                    log.warning("starting on the last plan known", reason=self.subscription.problem or "no answer")
            self._host.begin()

    async def samples(self, digest: str) -> AcceptanceSamples:
        """Acceptance samples by digest. Raises `SamplesUnavailable`."""
        if self.subscription is None:
            raise SamplesUnavailable("acceptance samples come from the operator, and --operator isn't set")
        return await self.subscription.samples(digest)

    def changed(self) -> None:
        """Something is to be reported."""
        if self.subscription is not None:
            self.subscription.something_changed()

    # --- what a subscription asks ---

    def answered(self, plan: ServingPlan | None, source: str) -> bool:
        """See `Subscriber`."""
        self._no_plan = plan is None
        if plan is not None:
            self._offer([Offer(plan, source)])
        held = self.plan
        return (held.epoch, held.digest) == (plan.epoch, plan.digest) if held and plan else held is plan

    def acknowledged(self, answer: ReportAnswer) -> None:
        """See `Subscriber`."""
        self._no_plan = answer.epoch is None
        if answer.epoch is not None:
            self._host.renew(answer.epoch, answer.renewed)

    def report(self) -> ServingReport:
        """See `Subscriber`."""
        return self._host.report(ready=self._is_ready(), draining=self._is_draining(), plan_conflict=self.conflict)

    # --- sources ---

    def _offer(self, offers: list[Offer]) -> None:
        """Takes the newest of some plans, if it is newer than the one followed."""
        choice = choose(self._host.server, self.plan, offers)
        for source, reason in choice.refusals.items():
            if reason != self._refusals.get(source):
                log.error("plan refused", source=source, reason=reason)
        kept = {} if choice.plan is not None else self._refusals
        offered = {offer.source for offer in offers}
        self._refusals = {
            **{source: reason for source, reason in kept.items() if source not in offered},
            **choice.refusals,
        }
        if choice.plan is not None:
            self._host.apply(choice.plan)
            self._unsaved.set()
        if choice.conflict != self.conflict and (choice.conflict or choice.plan is not None):
            self.conflict = choice.conflict
            self.changed()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(durable_plan.POLL_SECONDS)
            self._offer(await asyncio.to_thread(self._look))

    def _look(self) -> list[Offer]:
        if self._durable is None:
            return []
        before = self._durable.problem
        plan = self._durable.look()
        if self._durable.problem not in {"", before}:
            log.warning("the durable plan can't be taken", reason=self._durable.problem)
        return [Offer(plan, str(self._durable.path))] if plan is not None else []

    def _own_copy(self) -> list[Offer]:
        if self._state_dir is None:
            return []
        path = self._state_dir / plan_copy.COPY_NAME
        try:
            plan = plan_copy.load(self._state_dir)
        except (DocumentError, OSError) as error:
            log.warning("the copy of the last plan can't be read; going on without it", reason=str(error))
            return []
        return [Offer(plan, str(path))] if plan is not None else []

    async def _keep_copy(self) -> None:
        """Saves the plan followed, the newest only; tries again with the next one when it can't be written."""
        while True:
            await self._unsaved.wait()
            self._unsaved.clear()
            if self._state_dir is None or self.plan is None:
                continue
            try:
                await asyncio.to_thread(plan_copy.save, self._state_dir, self.plan)
                self._copy_problem = ""
            except OSError as error:
                self._copy_problem = (
                    f"the plan can't be kept in {self._state_dir} ({error.strerror}): started again without an "
                    "operator in reach, this replica would have none; make --state-dir writable"
                )
                log.warning("the plan can't be kept", folder=str(self._state_dir), reason=str(error))
