"""Check constraints.txt for known vulnerabilities of packages, with pip-audit and the database of osv.dev.

Without a connection to the database, it prints that the audit was skipped and succeeds.
"""

import contextlib
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"
DATABASE = "https://api.osv.dev/v1/query"
# Vulnerabilities that do not affect this project, each with the reason.
IGNORED: dict[str, str] = {}
SECONDS = 5  # for the first connection
MOST_SECONDS = 300  # for all packages


def reachable(address: str) -> bool:
    """Whether a server gives any answer within SECONDS. A thread limits the time, because DNS has no timeout."""
    answers = []

    def ask() -> None:
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(address, timeout=SECONDS).close()
            except urllib.error.HTTPError as error:
                error.close()
            answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS)
    return bool(answers)


def audit(constraints: Path, ignored: dict[str, str]) -> dict:
    """Run pip-audit, and return its JSON report.

    Raises:
        ConnectionError: The database stopped answering.
        RuntimeError: pip-audit failed in another way.
    """
    words = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--requirement", str(constraints)]
    words += ["--vulnerability-service", "osv", "--format", "json", "--progress-spinner", "off"]
    words += [word for name in ignored for word in ("--ignore-vuln", name)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise ConnectionError(f"no answer within {MOST_SECONDS} s") from error
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError as error:
        problem = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"exit status {done.returncode}"
        kind = ConnectionError if "onnect" in problem or "timed out" in problem else RuntimeError
        raise kind(problem) from error


def problems(report: dict) -> list[str]:
    """A line for every vulnerability in pip-audit's report, with the versions that fix it."""
    return [
        f"{package['name']} {package.get('version', '')}: {found['id']}, fixed in "
        f"{', '.join(found['fix_versions']) or 'no version'}; pin another version, or add it to IGNORED with the reason"
        for package in report["dependencies"]
        for found in package.get("vulns", [])
    ]


def main() -> None:
    """Exit with 1 and the vulnerabilities, if there are any."""
    if not reachable(DATABASE):
        print(f"audit_packages: skipped, {DATABASE} is not reachable")
        return
    try:
        report = audit(CONSTRAINTS, IGNORED)
    except ConnectionError as error:
        print(f"audit_packages: skipped, the database stopped answering ({error})")
        return
    if found := problems(report):
        sys.exit("\n".join(found))
    ignored = "".join(f"; ignored {name}: {reason}" for name, reason in IGNORED.items())
    print(f"audit_packages: no known vulnerability in {len(report['dependencies'])} packages{ignored}")


if __name__ == "__main__":
    main()
