"""What a run shows on its page: evidence as markdown, and how far it is.

Showing never stops a backup: where the orchestrator does not take it, the run goes on and says so in its log.
"""

import base64
import contextvars
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from uuid import UUID

import httpx
from prefect import get_run_logger
from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectException

from keepwell.progress import Progress, Step
from keepwell.quantities import describe_bytes
from tasks.redaction import redact

# Often enough to be watched, seldom enough to cost nothing.
_INTERVAL_SECONDS = 1.0
_NOT_TAKEN = (httpx.HTTPError, PrefectException)


def show_markdown(key: str, text: str, description: str) -> None:
    """Show a page on the run's page.

    Args:
        key: Letters, digits and dashes; other signs become dashes.
        text: Markdown; known secrets are taken out.
        description: One line.
    """
    try:
        create_markdown_artifact(markdown=redact(text), key=_artifact_key(key), description=description)
    except _NOT_TAKEN as error:
        get_run_logger().warning("The page %s could not be shown: %s", key, type(error).__name__)


def show_picture(key: str, png: bytes, description: str) -> None:
    """Show a picture on the run's page; it lies in the artifact itself, so that no other server is asked for it.

    Args:
        key: Letters, digits and dashes; other signs become dashes.
        png: The picture.
        description: One line.
    """
    address = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    try:
        create_image_artifact(image_url=address, key=_artifact_key(key), description=description)
    except _NOT_TAKEN as error:
        get_run_logger().warning("The picture %s could not be shown: %s", key, type(error).__name__)


@contextmanager
def shown_progress(key: str) -> Iterator[Progress]:
    """A bar on the run's page, for as long as the block.

    The engine reports from several threads and must never wait for us, so it only leaves its last step here and a
    thread of ours tells the orchestrator, once a second at most.

    Args:
        key: Letters, digits and dashes; other signs become dashes.

    Yields:
        What the engine calls.
    """
    board = _Board()
    try:
        created = create_progress_artifact(progress=0.0, key=_artifact_key(key), description="beginning")
    except _NOT_TAKEN as error:
        get_run_logger().warning("The progress cannot be shown: %s", type(error).__name__)
        yield board.put
        return
    artifact = cast("UUID", created)  # outside of a running event loop, Prefect answers at once
    # Prefect's settings live in context variables, which a new thread does not inherit.
    context = contextvars.copy_context()
    teller = threading.Thread(target=lambda: context.run(board.tell, artifact), name=f"progress {key}", daemon=True)
    teller.start()
    try:
        yield board.put
        board.finish()
    finally:
        board.done.set()
        teller.join(timeout=10)


class _Board:
    """The newest step, from whichever thread."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self._step: Step | None = None

    def put(self, step: Step) -> None:
        self._step = step

    def finish(self) -> None:
        self._step = Step("finished", 1, 1)

    def tell(self, artifact: UUID) -> None:
        """Tell the orchestrator whenever there is something new, until done; once more at the end."""
        told: Step | None = None
        try:
            with get_client(sync_client=True) as client:
                last = False
                while not last:
                    last = self.done.wait(_INTERVAL_SECONDS)
                    step = self._step
                    if step is not None and step is not told:
                        update = ArtifactUpdate(data=percent(step), description=describe_step(step))
                        client.update_artifact(artifact_id=artifact, artifact=update)
                        told = step
        except _NOT_TAKEN:
            return  # a bar that stands still is all that is lost


def percent(step: Step) -> float:
    """How much of a step is done, 0 to 100; 0 where that is not known."""
    return min(100.0, round(100 * step.done / step.total, 1)) if step.total else 0.0


def describe_step(step: Step) -> str:
    """A step in words, with its numbers where there are any."""
    if not step.total or not step.unit:
        return step.stage
    if step.unit == "bytes":
        return f"{step.stage}: {describe_bytes(step.done)} of {describe_bytes(step.total)}"
    return f"{step.stage}: {step.done} of {step.total} {step.unit}"


def _artifact_key(text: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", text.lower())
