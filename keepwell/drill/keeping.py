"""Keeping a drill's report beside its document, in markdown and as one HTML page."""

from keepwell.drill.documents import Drill, History, read_history, report_key
from keepwell.drill.report import render_drill, render_drill_page
from keepwell.objectstore.store import Store


def keep_reports(store: Store, drill: Drill) -> tuple[str, History]:
    """Write both forms of a drill's report.

    Returns:
        The report as markdown, and the drills so far, this one included.

    Raises:
        KeepwellError: The store cannot be read or written.
    """
    history = read_history(store)
    page = render_drill(drill, history.drills)
    store.put_bytes(report_key(drill.drill_id, "md"), page.encode())
    store.put_bytes(report_key(drill.drill_id, "html"), render_drill_page(drill, history.drills).encode())
    return page, history
