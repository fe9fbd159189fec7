"""Say how far experiments are: what is done, what runs, what failed, what it has cost and how long it may still take.

Reads files and nothing else, so it can be asked while Snakemake runs, here or on a cluster.
"""

import argparse
import json
import signal
import sys
import time
from pathlib import Path

from prefloop.rows import InputError
from prefloop.status import as_dict, experiments, look
from prefloop.status_text import headline, table


def main() -> None:
    """Print the status of one experiment, or of all in short."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="?", type=Path, help="results/<name>; all experiments in short if left out")
    parser.add_argument("--watch", type=float, metavar="SECONDS", help="print it again every so many seconds")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")
    arguments = parser.parse_args()
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` ends it quietly
    try:
        print(report(arguments.results, as_json=arguments.json))
        while arguments.watch:
            time.sleep(arguments.watch)
            text = report(arguments.results, as_json=arguments.json)
            clear = "\033[2J\033[H" if sys.stdout.isatty() and not arguments.json else ""
            print(f"{clear}{text}", flush=True)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        pass


def report(results: Path | None, *, as_json: bool) -> str:
    """What is to be printed now."""
    now = time.time()
    if results is not None:
        results = results.absolute()
        status = look(results.parent.parent, results.name)
        return json.dumps(as_dict(status, now)) if as_json else table(status, now)
    project = Path.cwd()
    found = [look(project, name) for name in experiments(project)]
    if as_json:
        return json.dumps([as_dict(status, now) for status in found])
    if not found:
        return "no experiment has been started here"
    if len(found) == 1:
        return table(found[0], now)
    lines = [headline(status, now) for status in found]
    return "\n".join([*lines, "", f"more of one: python {sys.argv[0]} results/{found[0].name}"])


if __name__ == "__main__":
    main()
