"""
Requests that are accepted now and answered later: 202, then a life of their own, then a result that is kept.

It decides how many there may be at once, of which no tenant gets more than half of what the others leave, and that each
ends exactly once: kept, lost with the store, or deleted. What has no room is refused before its body is read. It
refuses to know who may fetch a result (``pages``), where it is kept (``results``) and how the request is judged (the
gate).

Longer than other modules: who is accepted, and that each comes to one end, are two sides of one book.

Source: RFC 7240 section 4.1 (respond-async); RFC 9110 section 15.3.3 (202); OpenFaaS, asynchronous functions.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Final, Protocol

from authproxy.activator.activator import flow_of
from authproxy.audit import get_logger
from authproxy.callbacks.message import Callback, callback_fields
from authproxy.callbacks.target import Target, read_target
from authproxy.edges.job import DRAINING, Job, JobGate, Outcome, run_job
from authproxy.edges.job_answer import accepted_answer
from authproxy.gate.verdict import Deferred, PageAnswer, Refused
from authproxy.results.result import Owner, Result
from authproxy.results.store import RENEW_S, ResultBounds, ResultStore
from authproxy.upstream.failures import TOO_LARGE
from authproxy.upstream.held_body import BodyAccount, HeldBody
from authproxy.upstream.pool import Pool
from policies.decision import Deny, Reason, Refusal
from policies.errors import StoreUnavailable
from policies.held_bytes import Account, HeldBytes
from policies.overflow import takes_body
from policies.tables import Place

MAX_JOBS: Final = 5_000
"""Deferred requests of all tenants that this process has accepted and not come to an end with; 4 KiB each and more."""
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
"""Of answers that are still coming, over all tenants; those that have come are the store's."""
STORE_PAUSES_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Between attempts to keep a result while the store does not answer; it is renewed meanwhile."""
END_S: Final = 5.0
"""What the results of those who are ended at last may take to be kept."""
_RENEWED_AT_ONCE: Final = 64
POLL_S: Final = 2
"""``Retry-After`` of a 202 where nothing is known of the function."""
_NO_STORE: Final = Deny(Reason.OVERLOADED, "results cannot be kept at the moment", retry_after_s=5)

_log = get_logger("jobs")


class HoldableExchange(Protocol):
    """What is needed of ``authproxy.edges.exchange.PublicExchange``."""

    def holdable_body(self, max_bytes: int | None, content_length: int | None) -> HeldBody | None: ...

    def hand_over_body(self) -> None: ...

    async def send_continue(self) -> None: ...


class Gate(JobGate, Protocol):
    """What is needed of ``authproxy.gate.gate.Gate``."""

    def deferred_accepted(self, deferred: Deferred, answer: PageAnswer) -> PageAnswer: ...


class Sender(Protocol):
    """What is needed of ``authproxy.callbacks.sender.Callbacks``."""

    def send(self, callback: Callback) -> bool: ...


class _AnswerRoom:
    """What one answer takes while it comes. See ``BodyAccount``."""

    def __init__(self, answers: HeldBytes, account: Account) -> None:
        self._answers = answers
        self._account = account
        self.tenant = account.tenant

    def take(self, count: int, /) -> Reason | None:
        mine = self._answers.held(self.tenant)
        if not _is_fair(mine + count, self._answers.total + count, self._answers.max_total):
            return Reason.OVERLOADED
        return self._account.take(count)

    def close(self) -> None:
        self._account.close()


class Jobs:
    """
    One per process; ``stop`` is owed.

    Args:
        count: told tenant and outcome of each: ``accepted``, then one of ``done``, ``failed`` (the result is a
            refusal), ``lost`` (it could not be kept) and ``deleted``.
        open_account: for a request's body; place and flow.
        retry_after_s: when a function is likely to serve, whole seconds; None: not known of any.
        allow_loopback_http: of callbacks; the demo and tests only.
        clock: Unix seconds.
    """

    def __init__(
        self,
        gate: Gate,
        pool: Pool,
        results: ResultStore,
        callbacks: Sender,
        count: Callable[[str, str], None],
        *,
        open_account: Callable[[Place, str], BodyAccount],
        retry_after_s: Callable[[Place], int] | None = None,
        allow_loopback_http: bool = False,
        max_jobs: int = MAX_JOBS,
        max_answer_bytes: int = MAX_ANSWER_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._gate = gate
        self._pool = pool
        self._results = results
        self._callbacks = callbacks
        self._count = count
        self._open_account = open_account
        self._retry_after_s = retry_after_s
        self._allow_loopback_http = allow_loopback_http
        self._max_jobs = max_jobs
        self._answers = HeldBytes(max_answer_bytes)
        self._clock = clock
        self._jobs: dict[tuple[str, str], Job] = {}
        """By tenant and id: those who send their body, those who wait, those who run, those whose result is stored."""
        self._of: Counter[str] = Counter()
        """How many each tenant has, with those that wait for their id."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._renewer: asyncio.Task[None] | None = None
        self._is_draining = False

    def __len__(self) -> int:
        return len(self._jobs)

    # -- accepting ---------------------------------------------------------------------------------------------------

    async def accept(self, deferred: Deferred, exchange: HoldableExchange) -> PageAnswer | Refused:
        """See ``DeferredJobs``. Raises: ClientGone."""
        job = await self._open(deferred)
        if isinstance(job, Deny):
            return self._gate.deferred_refused(deferred, job)
        try:
            refusal = await self._take_body(job, exchange)
            if refusal is None and job.ended_by is not None:  # while the body came
                refusal = _NO_STORE if job.is_unwanted else job.ended_by
            if refusal is not None:
                self._drop(job)
                return self._gate.deferred_refused(deferred, refusal)
            answer = self._gate.deferred_accepted(deferred, self._accepted(job))
        except BaseException:
            self._drop(job)
            raise
        self._count(job.tenant, "accepted")
        self._spawn(self._live(job))
        return answer

    async def _open(self, deferred: Deferred) -> Job | Deny:
        """A place, and an id to fetch the result by; nothing of the body has been read."""
        place, principal = deferred.allow.place, deferred.allow.principal
        target = self._read_target(deferred)
        if isinstance(target, Deny):
            return target
        if not takes_body(place, deferred.request):  # said before it is sent, to who asked whether to send it
            return Deny(Reason.BODY_TOO_LARGE, TOO_LARGE)
        if self._is_draining:
            return Deny(Reason.DRAINING, retry_after_s=1)
        tenant = place.tenant.name
        if not _is_fair(self._of[tenant] + 1, self._of.total() + 1, self._max_jobs):
            return Deny(Reason.OVERLOADED, "too many requests wait to be answered later")
        spec, ceilings = place.spec.deferred, place.tenant.ceilings
        owner = Owner(tenant, None if principal.is_anonymous else principal.subject)
        flow = flow_of(principal, deferred.request)
        bounds = ResultBounds(spec.max_async, ceilings.results, ceilings.result_bytes)
        self._of[tenant] += 1
        try:
            opened = await self._results.open(owner, flow, bounds, spec.keep_s)
        except StoreUnavailable:
            return _NO_STORE
        finally:
            self._give_back(tenant)
        if isinstance(opened, Reason):
            return Deny(opened, "there are too many results under way or kept already", retry_after_s=5)
        function = (place.tenant.backend, place.tenant.namespace, place.function)
        account = self._answers.open(tenant, ceilings.result_bytes, function, None, flow, None)
        job = Job(deferred, opened, target, _AnswerRoom(self._answers, account))
        if self._is_draining:  # by now: nobody would wait for what runs, nor tell its caller
            self._drop(job)
            return Deny(Reason.DRAINING, retry_after_s=1)
        self._jobs[tenant, job.result_id] = job
        self._of[tenant] += 1
        if self._renewer is None:
            self._renewer = asyncio.get_running_loop().create_task(self._renew(), name="jobs: renew results")
        return job

    def _read_target(self, deferred: Deferred) -> Target | Deny | None:
        text = deferred.request.callback_url
        if text is None:
            return None
        hosts = deferred.allow.place.spec.deferred.callback_hosts
        target = read_target(text, hosts, allow_loopback_http=self._allow_loopback_http)
        if isinstance(target, Target):
            return target
        # Who asked to be answered at once was not promised a callback, and is spared a refusal all the same.
        return None if deferred.instead_of is not None else Deny(Reason.BAD_REQUEST, target)

    async def _take_body(self, job: Job, exchange: HoldableExchange) -> Refusal | None:
        """The whole body, before anything is promised. Raises: ClientGone."""
        request, place = job.deferred.request, job.deferred.allow.place
        body = exchange.holdable_body(place.spec.max_body_bytes, request.content_length)
        if body is None:
            return None
        await exchange.send_continue()
        account = self._open_account(place, flow_of(job.deferred.allow.principal, request))
        refusal = await body.fill(account)
        if refusal is None:
            exchange.hand_over_body()
            job.body = body
        return refusal

    def _accepted(self, job: Job) -> PageAnswer:
        deferred = job.deferred
        wait_s = POLL_S if self._retry_after_s is None else self._retry_after_s(deferred.allow.place)
        if deferred.instead_of is not None:  # there is a queue besides
            wait_s = max(wait_s, deferred.instead_of.retry_after_s or 0)
        return accepted_answer(deferred, job.result_id, wait_s, is_shared=self._results.is_shared)

    # -- running -----------------------------------------------------------------------------------------------------

    async def _live(self, job: Job) -> None:
        try:
            outcome = await run_job(job, self._gate, self._pool, self._clock)
            if outcome.result is None:
                self._count(job.tenant, "deleted")
                return
            await self._keep(job, outcome, outcome.result)
        except asyncio.CancelledError:
            self._count(job.tenant, "lost")
            raise
        finally:
            self._remove(job)

    async def _keep(self, job: Job, outcome: Outcome, result: Result) -> None:
        """Keep the result, and have it delivered where its caller asked for it."""
        is_kept, has_failed = False, False
        for pause_s in (*STORE_PAUSES_S, None):
            try:
                is_kept = await self._results.finish(job.tenant, job.result_id, result)
                break
            except StoreUnavailable:
                has_failed = True
                if pause_s is None or self._is_draining:
                    break
                await asyncio.sleep(pause_s)
        if not (is_kept or has_failed):
            self._count(job.tenant, "deleted")
            return
        if not is_kept:
            _log.error("a result could not be kept", request_id=job.deferred.case.request_id, tenant=job.tenant)
            self._count(job.tenant, "lost")
        else:
            self._count(job.tenant, "done" if outcome.is_answered else "failed")
        if job.target is not None:
            function = job.deferred.allow.place.function
            fields = callback_fields(job.result_id, function, result.status, outcome.took_s, result.fields)
            self._callbacks.send(Callback(job.tenant, job.target, fields, result.body))

    def forget(self, tenant: str, result_id: str) -> None:
        """The result was deleted: stop working for it. Without this word it is noticed with the next renewal."""
        job = self._jobs.get((tenant, result_id))
        if job is not None:
            job.forget()

    async def _renew(self) -> None:
        """Say of every pending result that it is still being worked for, until ``stop``."""
        while True:
            await asyncio.sleep(RENEW_S)
            jobs = tuple(self._jobs.values())
            for first in range(0, len(jobs), _RENEWED_AT_ONCE):
                await asyncio.gather(*map(self._renew_one, jobs[first : first + _RENEWED_AT_ONCE]))

    async def _renew_one(self, job: Job) -> None:
        try:
            if not await self._results.renew(job.tenant, job.result_id):
                job.forget()
        except StoreUnavailable:
            return  # two lost renewals are forgiven
        except Exception:  # noqa: BLE001  # contained: the others are renewed all the same
            _log.exception("renewing a result failed")

    # -- ending ------------------------------------------------------------------------------------------------------

    async def stop(self, patience_s: float) -> None:
        """
        Accept nothing more; who runs has ``patience_s``, then the result is 503 ``draining``. Idempotent.

        Call it before the parts that jobs run on are closed.
        """
        self._is_draining = True
        if self._tasks and patience_s > 0:
            await asyncio.wait(tuple(self._tasks), timeout=patience_s)
        for job in tuple(self._jobs.values()):
            job.end(DRAINING)
        for task in await self._unfinished(END_S):
            task.cancel()  # the store does not answer
        await self._unfinished(END_S)
        renewer, self._renewer = self._renewer, None
        if renewer is not None:
            renewer.cancel()
            await asyncio.wait((renewer,))

    async def _unfinished(self, timeout_s: float) -> set[asyncio.Task[None]]:
        return (await asyncio.wait(tuple(self._tasks), timeout=timeout_s))[1] if self._tasks else set()

    def _drop(self, job: Job) -> None:
        """It was not accepted; its id goes without anybody having to wait for that."""
        job.is_over = True
        self._remove(job)
        self._spawn(self._delete(job))

    def _remove(self, job: Job) -> None:
        job.close()
        if self._jobs.pop((job.tenant, job.result_id), None) is not None:
            self._give_back(job.tenant)

    def _give_back(self, tenant: str) -> None:
        self._of[tenant] -= 1
        if not self._of[tenant]:
            del self._of[tenant]

    async def _delete(self, job: Job) -> None:
        try:
            await self._results.delete(job.tenant, job.result_id)
        except StoreUnavailable:
            return  # not renewed, it is gone soon

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work, name="job")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _is_fair(mine: int, everybodys: int, most: int) -> bool:
    """Whether a tenant may have ``mine`` of ``everybodys``: half of what the others leave of ``most``, or one."""
    left = most - (everybodys - mine)
    return 2 * mine <= left or (mine == 1 and left > 0)
