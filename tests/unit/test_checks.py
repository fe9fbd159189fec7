"""Checks of the repository: secrets in files and vulnerable packages."""

import http.server
import json
import runpy
import socket
import subprocess
import sys
import threading
import time

import pytest

from conftest import ROOT

SECRETS = runpy.run_path(str(ROOT / "tools/check_secrets.py"))
AUDIT = runpy.run_path(str(ROOT / "tools/audit_packages.py"))
# Split, so that this file contains no secret.
PLANTED = {
    "a private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "a key of AWS": "AKIA" + "ABCDEFGHIJKLMNOP",
    "a key of OpenAI": "sk-proj-" + "a" * 20 + "T3Blbk" + "FJ" + "b" * 20,
    "a key of Anthropic": "sk-ant-" + "api03-" + "a" * 80,
    "a token of GitHub": "ghp_" + "a" * 36,
    "a token of GitLab": "glpat-" + "a" * 20,
    "a token of Hugging Face": "hf_" + "a" * 34,
    "a token of PyPI": "pypi-" + "a" * 60,
    "a token of Slack": "xoxb-" + "1" * 12,
    "a key of Google": "AIza" + "a" * 35,
    "a key of Weights & Biases": "WANDB_API_KEY=" + "0" * 40,
    "a JSON Web Token": "eyJ" + "a" * 12 + ".eyJ" + "b" * 12 + "." + "c" * 12,
}


def test_every_form_of_secret_is_found():
    assert PLANTED.keys() == SECRETS["FORMS"].keys()
    for kind, secret in PLANTED.items():
        assert list(SECRETS["secrets_in"](f"one\nkey = '{secret}'\n")) == [(2, kind)]
    harmless = ["sk-your-key-here", "hf_hub_download(repo_id)", "pypi:a==1/b#sha256=" + "0" * 64, "a" * 64, "ghp_x"]
    assert list(SECRETS["secrets_in"]("\n".join(harmless))) == []


def test_repository_has_no_secrets(tmp_path):
    done = subprocess.run([sys.executable, ROOT / "tools/check_secrets.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-2]) > 400


def test_planted_secret_fails_and_is_not_printed(tmp_path):
    (tmp_path / ".gitignore").write_text("ignored/\nresults/*\n!results/.gitkeep\n")
    for folder in ("tools", "ignored", "results"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "key.txt").write_text(PLANTED["a private key"] if folder != "tools" else "")
    script = tmp_path / "tools/check_secrets.py"
    script.write_text((ROOT / "tools/check_secrets.py").read_text())
    (tmp_path / "notes.md").write_text(f"\n{PLANTED['a token of GitHub']}\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("notes.md:2: a token of GitHub; revoke it")
    assert len(done.stderr.splitlines()) == 1 and PLANTED["a token of GitHub"] not in done.stderr


def test_vulnerability_is_named_with_the_version_that_fixes_it():
    found = {"id": "CVE-1", "fix_versions": ["2.0"], "aliases": [], "description": ""}
    report = {"dependencies": [{"name": "a", "version": "1.0", "vulns": [found]}, {"name": "b", "skip_reason": "x"}]}
    (line,) = AUDIT["problems"](report)
    assert line.startswith("a 1.0: CVE-1, fixed in 2.0; ")


def test_unreachable_server_skips_the_check(monkeypatch):
    """A closed port or a server that never answers does not block the check."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setitem(AUDIT["reachable"].__globals__, "SECONDS", 0.5)
        start = time.monotonic()
        assert not AUDIT["reachable"](f"http://127.0.0.1:{silent.getsockname()[1]}/")
        assert not AUDIT["reachable"]("http://127.0.0.1:9/")
        assert time.monotonic() - start < 10
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)  # answers 501
    threading.Thread(target=server.handle_request, daemon=True).start()
    monkeypatch.setitem(AUDIT["reachable"].__globals__, "SECONDS", 30)
    assert AUDIT["reachable"](f"http://127.0.0.1:{server.server_port}/")
    server.server_close()


@pytest.mark.parametrize(
    ("stdout", "stderr", "raised"),
    [
        ("", "requests.exceptions.ConnectionError: Max retries exceeded", ConnectionError),
        ("", "No module named pip_audit", RuntimeError),
        ("", "", RuntimeError),
        (json.dumps({"dependencies": []}), "Found 1 known vulnerability", None),
    ],
)
def test_other_failures_of_pip_audit_fail_the_check(monkeypatch, tmp_path, stdout, stderr, raised):
    """Only a connection error skips the check."""
    done = subprocess.CompletedProcess([], 1, stdout, stderr)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    if raised is None:
        assert AUDIT["audit"](tmp_path, {}) == {"dependencies": []}
    else:
        with pytest.raises(raised):
            AUDIT["audit"](tmp_path, {})
