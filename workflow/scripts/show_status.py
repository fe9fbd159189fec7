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
from prefloop.monitor.status import as_dict, experiment_status, experiments
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
    statuses = [experiment_status(project, name) for name in experiments(project)]
    if as_json:
        return json.dumps([as_dict(status, now) for status in statuses])
    if not statuses:
        return "no experiment has been started in this folder"
    if len(statuses) == 1:
        return status_table(statuses[0], now)
    lines = [headline(status, now) for status in statuses]
    return "\n".join([*lines, "", f"details of one: python {sys.argv[0]} results/{statuses[0].name}"])


if __name__ == "__main__":
    main()
