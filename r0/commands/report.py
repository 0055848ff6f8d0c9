"""``report``: writes runs as one HTML page."""

from __future__ import annotations

import webbrowser
from pathlib import Path

from r0.config import ReportConfig
from r0.errors import UserError


def run(config: ReportConfig, dry_run: bool) -> int:
    """Write the page, or say what would be read and written. Returns the exit code.

    Raises:
        UserError: a folder is no run of r0, a file in it is damaged, or the page cannot be written.
    """
    from r0.report.page import default_output, write_page
    from r0.report.run import open_runs

    if not config.runs:
        raise UserError("runs: give at least one run directory, such as runs/demo-…")
    runs = open_runs(config.runs)
    output = Path(config.output).expanduser() if config.output else default_output(runs)
    if dry_run:
        print("\n".join([*(f"would read {one.path}, a run of {one.marker.command}" for one in runs), f"would write {output}"]))
        return 0
    write_page(runs, output, config.samples, config.qrels)
    print(f"{output} ({output.stat().st_size / 1e6:.1f} MB)")
    if config.open and not webbrowser.open(output.absolute().as_uri()):
        print("no browser was found here; open the file in one")
    return 0
