"""Every mistake in tests/catalogue gives its message there, without a traceback, and leaves no incomplete files."""

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import tiny
from catalogue import Case, cases, files, matches, read
from conftest import ROOT, Workdir, merge
from judge_server import JudgeServer, Reply
from prefloop.config.validation import checked
from prefloop.core.errors import InputError
from prefloop.core.interrupts import INTERRUPTED
from prefloop.core.own_functions import load_own
from prefloop.models.fetch import fetch
from snakemake_runs import run_snakemake

SCRIPTS = ROOT / "workflow/scripts"
DEFAULT = merge(*(yaml.safe_load((ROOT / file).read_text()) for file in ("experiments/methods.yaml", "config.yaml")))
PROGRAMS = [case for trade in ("prompts", "models", "feedback", "stages") for case in cases(trade)]


def named(of: list[Case]) -> dict:
    """Return arguments of `parametrize` whose ids are the mistakes."""
    return {"argnames": "case", "argvalues": of, "ids": [case.mistake for case in of]}


def put(folder: Path, content: dict) -> None:
    """Write files with contents as in `Case.files`."""
    for name, text in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.mkdir()
        else:
            text = files.MADE[text["made"]] if isinstance(text, dict) else text
            path.write_bytes(text if isinstance(text, bytes) else text.encode())


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(**named(cases("config")))
def test_wrong_config_is_refused(case: Case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workflow").symlink_to(ROOT / "workflow")
    put(tmp_path, case.files)
    with pytest.raises(InputError) as refused:
        checked(merge(DEFAULT, yaml.safe_load(case.config)))
    message = str(refused.value).removeprefix("config: ")
    assert matches(case.message, message), message


@pytest.fixture(scope="module")
def shared(manifests, trained, tmp_path_factory) -> Path:
    """Make a folder with policies/ and fetched models/, some of them wrong."""
    root = tmp_path_factory.mktemp("shared")
    plain, bare = tiny.make_model(root / "plain"), tiny.make_model(root / "bare")
    (plain / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    for file in bare.glob("*token*"):
        file.unlink()
    for name, folder in {
        "llama": manifests["llama"].parent,
        "qwen": manifests["qwen"].parent,
        "two_logits": tiny.make_reward_model(root / "classifier", labels=2),
        "no_system": plain,
        "no_tokenizer": bare,
    }.items():
        fetch(str(folder), root / "models" / name)
    config = json.loads((bare / "config.json").read_text()) | {"model_type": "t5"}
    put(root / "translator", {"config.json": json.dumps(config)})
    (root / "translator/model.safetensors").symlink_to(bare / "model.safetensors")
    fetch(str(root / "translator"), root / "models/translator")
    (root / "policies").mkdir()
    (root / "policies/llama.pt").symlink_to(trained("lora"))
    return root


@pytest.fixture(scope="module")
def server():
    """Start a judge server that refuses all requests."""
    replies = {
        "strict": Reply(400, '{"error": {"message": "Unsupported parameter: max_tokens"}}'),
        "m": Reply(401, '{"error": {"message": "no such key"}}'),
    }
    with JudgeServer(lambda _: "A", lambda *_: replies[judge.bodies[-1]["model"]]) as judge:
        yield judge


@pytest.fixture
def place(shared, tmp_path, monkeypatch) -> Path:
    """Make a working directory with models and policies, without network and API key."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "wheels")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name in ("models", "policies"):
        (tmp_path / name).mkdir()
        for file in (shared / name).iterdir():
            (tmp_path / name / file.name).symlink_to(file)
    return tmp_path


def ends(command: list[str]) -> SimpleNamespace:
    """Run a program in this process as Snakemake would start it; return its status and output."""
    printed, argv, known = io.StringIO(), sys.argv, set(sys.modules)
    sys.argv, status = command, 0
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as error:  # as Python handles it
        status = error.code
        if isinstance(status, str):
            printed.write(f"{status}\n")
            status = 1
    finally:
        sys.argv = argv
        load_own.cache_clear()
        for name in set(sys.modules) - known:
            if name.startswith("my_"):
                del sys.modules[name]
    return SimpleNamespace(status=status, printed=printed.getvalue())


@pytest.mark.parametrize(**named(PROGRAMS))
def test_programs_report_mistakes(case: Case, place, server):
    put(place, files.FILES | case.files)
    before = everything(place)
    program, *flags = shlex.split(case.run.replace("{server}", server.url).replace("{sha256}", files.SHA256))
    done = ends([str(SCRIPTS / f"{program}.py"), *shlex.split(files.FLAGS[program]), *flags])
    assert done.status not in (0, None), done.printed
    assert "Traceback" not in done.printed
    message = done.printed.rpartition("error: ")[2]  # tyro reports all wrong flags
    assert matches(case.message, message), f"@@@{case.mistake}@@@{message}@@@"
    assert everything(place) == before, "incomplete files are left"


@pytest.mark.parametrize(**named(cases("snakemake")))
def test_snakemake_reports_mistakes(case: Case, workdir: Workdir):
    put(workdir.path, case.files)
    _, *flags = shlex.split(case.run)
    done = run_snakemake(["--snakefile", str(ROOT / "Snakefile"), *flags], workdir.path, COLUMNS="500")
    assert done.returncode != 0
    for line in case.message.strip().splitlines():
        assert matches(f"…{line}…", done.stdout), f"@@@{case.mistake}@@@{done.stdout}@@@"
    if case not in read("snakemake")["By Snakemake"]:
        assert "Traceback" not in done.stdout
        assert matches(f"…{case.message.strip().splitlines()[-1]}", done.stdout.splitlines()[-1]), done.stdout
    if "--dry-run" in flags:
        assert not (workdir.path / "results").exists()


def test_full_memory_prints_one_line(tmp_path):
    """This covers the exceptions of Python, NumPy and torch."""
    for raised in (
        "numpy.zeros(10**16)",
        "torch.zeros(10**16)",
        "(_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB'))",
    ):
        (tmp_path / "program.py").write_text(
            f"import numpy\nimport torch\nfrom _program import run\ndef main() -> None:\n    {raised}\nrun(main)\n"
        )
        done = ends([str(tmp_path / "program.py")])
        assert done.status == 1
        assert matches(
            "error: memory is full (…); lower this stage's batch_size, train's micro_batch_size", done.printed
        )


def test_ctrl_c_prints_one_line(tmp_path):
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"  # what was started in the background hears none
    pressed = "signal.raise_signal(signal.SIGINT)"
    text = f"import signal\nfrom _program import run\n{heard}\ndef main() -> None:\n    {pressed}\nrun(main)\n"
    (tmp_path / "program.py").write_text(text)
    done = ends([str(tmp_path / "program.py")])
    assert done.status == 1
    assert done.printed.strip() == INTERRUPTED


def test_ctrl_c_during_imports_prints_one_line(tmp_path):
    (tmp_path / "slow_module.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "program.py").write_text("from _program import run\nimport slow_module\n")
    environment = os.environ | {"PYTHONPATH": str(SCRIPTS)}
    done = subprocess.run(
        [sys.executable, tmp_path / "program.py"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGINT
    assert done.stdout + done.stderr == f"{INTERRUPTED}\n"


TOOL = runpy.run_path(str(ROOT / "tools/write_troubleshooting_page.py"))
PAGE = TOOL["PAGE"].read_text(encoding="utf-8")
QUOTED = [line for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def test_troubleshooting_page_has_the_catalogue():
    """After a change of the catalogue, run python tools/write_troubleshooting_page.py."""
    assert TOOL["page"](PAGE) == PAGE, "run tools/write_troubleshooting_page.py"


def test_troubleshooting_page_quotes_real_messages():
    """Each message is in the catalogue or in the sources of Snakemake or this project."""
    messages = [f"config: {case.message}" for case in cases("config")]
    messages += [f"error: {case.message}" for case in PROGRAMS]
    messages += [line for case in cases("snakemake") for line in case.message.splitlines()]
    package = Path(pytest.importorskip("snakemake").__file__).parent
    sources = [*package.rglob("*.py"), *SCRIPTS.rglob("*.py"), *(ROOT / "rules").glob("*.smk"), ROOT / "Makefile"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    text = re.sub(r'"\s*f?"', "", text)  # joins texts split over lines
    missing = [
        line
        for line in QUOTED
        if not any(matches(line, message) for message in messages)
        and not all(part.strip(" ()`';:.,") in text for part in re.split(r"…|^error: |^Error: ", line))
    ]
    assert len(QUOTED) > 40
    assert missing == []
