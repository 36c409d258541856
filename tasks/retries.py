"""The retry boundary: what every step has in common.

A step is one moment that an operator would want to see, retry and time. It is never cached and its result is never
stored: a backup is made anew or not at all. Only what is transient by `keepwell.errors.is_transient` is retried.

Timeouts: Prefect ends a synchronous step by SIGALRM when it runs in the main thread, as it does in a worker's process;
that breaks into a waiting system call as well, and `finally` runs. In any other thread (such as a test's) it can only
raise between two instructions of Python, so a call that hangs in the kernel is ended by its own timeout, not by this.
"""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from keepwell.errors import is_transient
from tasks.redaction import scrubbed

MINUTE_SECONDS = 60
HOUR_SECONDS = 3600
_RETRY_DELAYS_SECONDS = [20.0, 120.0]

P = ParamSpec("P")
R = TypeVar("R")


def retry_when_transient(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Prefect's `retry_condition_fn`: whether the same call may succeed later."""
    del task, task_run
    return isinstance(state.data, BaseException) and is_transient(state.data)


def step(run_name: str, *, timeout_seconds: float, retried: bool = True) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a function a step of a flow.

    Args:
        run_name: As it shows on the run's page; may name parameters in braces.
        timeout_seconds: A guard against hanging for ever, well above what the step may take.
        retried: Whether it may be tried again where that may help; not so where it goes on by other means.

    Returns:
        A decorator.
    """

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        return task(
            name=function.__name__.replace("_", "-"),
            task_run_name=run_name,
            description=(function.__doc__ or "").partition("\n")[0],
            retries=len(_RETRY_DELAYS_SECONDS) if retried else 0,
            retry_delay_seconds=_RETRY_DELAYS_SECONDS,
            retry_condition_fn=retry_when_transient,
            timeout_seconds=timeout_seconds,
            cache_policy=NO_CACHE,
            persist_result=False,
            log_prints=False,
            tags=["keepwell"],
        )(scrubbed(function))

    return decorate
