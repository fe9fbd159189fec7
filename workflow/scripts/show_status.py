"""Show the state of experiments: what is done, running or failed, the cost so far, and the time left.

It only reads files, so it can be used while Snakemake runs, on this machine or on a cluster.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from prefloop.core.errors import InputError, printable
from prefloop.monitor.status import Status, as_dict, experiment_status, experiments
from prefloop.monitor.status_text import headline, status_table


def main() -> None:
    """Print the full state of one experiment, or one line per experiment."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, help="results/<name>; one line per experiment if left out")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="print it again at this interval")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # so that `| head` ends the program without an error
    try:
        print(printable(report(arguments.results, as_json=arguments.json)))
        while arguments.watch:
            time.sleep(arguments.watch)
            text = printable(report(arguments.results, as_json=arguments.json))
            clear = "\033[2J\033[H" if sys.stdout.isatty() and not arguments.json else ""
            print(f"{clear}{text}", flush=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass


def report(results: Path | None, *, as_json: bool) -> str:
    """The text to print."""
    now = time.time()
    if results is not None:
        results = results.absolute()
        status = experiment_status(results.parent.parent, results.name)
        return json.dumps(as_dict(status, now)) if as_json else status_table(status, now)
    project = Path.cwd()
    names = experiments(project)
    if len(names) == 1 and not as_json:
        return report(project / "results" / names[0], as_json=False)
    statuses = [status_or_error(project, name) for name in names]
    if as_json:
        return json.dumps([status if isinstance(status, dict) else as_dict(status, now) for status in statuses])
    if not names:
        return "no experiment has been started in this folder"
    lines = [f"{s['experiment']}: {s['error']}" if isinstance(s, dict) else headline(s, now) for s in statuses]
    shown = next((name for name, status in zip(names, statuses, strict=True) if isinstance(status, Status)), names[0])
    return "\n".join([*lines, "", f"details of one: python {sys.argv[0]} results/{shown}"])


def status_or_error(project: Path, name: str) -> Status | dict:
    """The state of an experiment; its name and the error if it has none, such as with a plan of another version."""
    try:
        return experiment_status(project, name)
    except InputError as error:
        return {"experiment": name, "error": str(error)}


if __name__ == "__main__":
    main()
