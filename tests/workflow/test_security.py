"""Text of configs, models and intermediate files is never executed, and secrets are not copied."""

import ast
import json
import os
import pickle
import random
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.utils import canonicalize_name

from conftest import ROOT, TINY, merge
from judge_server import JudgeServer
from prefloop.config.feedback_identity import feedback_identity
from prefloop.config.resolve import flags
from prefloop.config.validation import checked
from prefloop.core.errors import InputError
from prefloop.data.clusters import read_clusters, write_clusters
from prefloop.models.fetch import PACKAGE
from prefloop.models.policies import read_policy
from prefloop.models.sources import model_name

SOURCES = [path for part in ("workflow", "benchmarks") for path in sorted((ROOT / part).rglob("*.py"))]
FORBIDDEN = {  # calls that can execute the content of a file
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "os.system", "os.popen", "eval", "exec"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput", "shelve.open", "marshal.loads"),
}
TEXTS = ["a b", 'it\'s "x"', "$(touch pwned)", "`touch pwned`", "a\ntouch pwned", "; touch pwned #", "-rf", "--help"]
TEXTS += ["größe → ✓", "*?[a]", "~", "&& touch pwned", "\\", "$HOME", "!x", "|touch pwned", "{x}", "-1"]

CONSTRAINTS = runpy.run_path(str(ROOT / "tools/write_constraints.py"))


def calls(path: Path):
    """Yield (dotted name, keyword arguments, line) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: k.value for k in node.keywords}, f"{path}:{node.lineno}"


def is_literally(node: ast.expr | None, value) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_programs_never_execute_file_contents():
    """The exception is the warm process, which runs programs of the clone."""
    sources = [path for path in SOURCES if path.name != "forked_program.py"]
    found = [where for path in sources for name, _, where in calls(path) if name in FORBIDDEN]
    assert found == []
    loose = [where for path in SOURCES for _, words, where in calls(path) if is_literally(words.get("shell"), True)]
    loose += [w for path in SOURCES for _, words, w in calls(path) if is_literally(words.get("allow_pickle"), True)]
    # Configs can run code in any case, such as the command of a benchmark (docs/security.md).
    assert [where for where in loose if "run_benchmark.py" not in where] == []


def test_torch_loads_weights_only():
    tree = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
    found = [(words, where) for path in tree for name, words, where in calls(path) if name == "torch.load"]
    assert len(found) > 3
    assert [where for words, where in found if not is_literally(words.get("weights_only"), True)] == []


def test_every_model_and_tokenizer_call_sets_trust_remote_code():
    """Without a value, transformers asks on the terminal. The value is never a literal True.

    Only Auto classes can run a repository's code.
    """
    loaders = [call for path in SOURCES for call in calls(path) if call[0].endswith(".from_pretrained")]
    found = [(words, where) for name, words, where in loaders if "GenerationConfig" not in name]
    assert len(found) > 6
    stated = [where for words, where in found if "trust_remote_code" in words]
    assert stated == [where for _, where in found]
    assert [where for words, where in found if is_literally(words["trust_remote_code"], True)] == []


def trusted_in_jobs(directory) -> list[set[str]]:
    """Return the models whose code each job may run, from the commands of a dry run."""
    done = directory.run("--dry-run", "--printshellcmds")
    assert done.returncode == 0, done.stdout
    commands = [line for line in done.stdout.splitlines() if "PREFLOOP_LOG=" in line]
    assert len(commands) > 10
    return [set(re.findall(r"--trusted-model (\S+)", command)) for command in commands]


def test_programs_get_the_trusted_models_of_the_config(workdir, model_folders):
    """These are the named models and those that the experiment derives from them."""
    policy, judge = str(model_folders["llama"]), str(model_folders["gpt2"])
    evaluator = {"kind": "judge", "model": judge}
    mine = {"base": judge, "source": "packaged"}
    feedback = {"kind": "reward_model", "model": "trained:mine"}
    sections = {"evaluation": {"evaluator": evaluator}, "reward_models": {"mine": mine}, "feedback": feedback}
    workdir.configure(policy={"model": policy}, **sections)
    assert set().union(*trusted_in_jobs(workdir)) == set()
    of_policy = {f"results/models/{model_name(policy)}/manifest.json"}
    of_judge = {f"results/models/{model_name(judge)}/manifest.json", "results/tiny/reward_models/mine/manifest.json"}
    workdir.configure(policy={"model": policy, "trust_remote_code": True}, sft={"enabled": True}, **sections)
    of_sft = {"results/tiny/sft/model/manifest.json"}
    assert all(found == of_policy | of_sft for found in trusted_in_jobs(workdir))
    sections["reward_models"] = {"mine": mine | {"trust_remote_code": True}}
    workdir.configure(policy={"trust_remote_code": False}, sft={"enabled": False}, **sections)
    assert all(found == of_judge for found in trusted_in_jobs(workdir))


class Poison:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_poisoned_policy_is_refused_without_running_it(trained, tmp_path):
    saved = torch.load(trained("lora"), weights_only=True)
    for place in (saved, saved["state_dict"], saved["adapter"]):
        place["extra"] = Poison(tmp_path / "pwned")
        torch.save(saved, tmp_path / "policy.pt")
        with pytest.raises(InputError, match="policy.pt: not a readable policy.pt"):
            read_policy(tmp_path / "policy.pt")
        del place["extra"]
    (tmp_path / "policy.pt").write_bytes(pickle.dumps(Poison(tmp_path / "pwned")))
    with pytest.raises(InputError):
        read_policy(tmp_path / "policy.pt")
    assert not (tmp_path / "pwned").exists()
    pickle.loads((tmp_path / "policy.pt").read_bytes())
    assert (tmp_path / "pwned").exists(), "the pickle does run code where it is loaded"


def test_broken_clusters_never_crash(tmp_path):
    """NumPy's unpickling can end with a segmentation fault for such bytes."""
    path, rng = tmp_path / "clusters.pkl", random.Random(0)
    value = {"prompt_ids": ["a", "b"], "labels": np.array([0, 1]), "centroids": np.ones((2, 3), "f4"), "k": 2}
    write_clusters(path, value)
    whole = path.read_bytes()
    np.testing.assert_array_equal(read_clusters(path)["centroids"], value["centroids"])
    refused = 0
    for _ in range(2000):
        broken = bytearray(whole)
        for _ in range(rng.choice([1, 2, 5])):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        path.write_bytes(bytes(broken[: rng.choice([len(broken), rng.randrange(len(broken))])]))
        try:
            read_clusters(path)
        except InputError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("text", TEXTS)
def test_flags_keep_any_text_through_the_shell(tmp_path, text):
    """After bash and tyro, a program gets the exact text of the config."""
    (tmp_path / "program.py").write_text(
        "import json, tyro\n"
        "def main(*, text: str, words: tuple[str, ...], count: int = -1) -> None:\n"
        "    print(json.dumps([text, words, count]))\n"
        "tyro.cli(main)\n"
    )
    words = flags({"text": text, "words": ["a", f"x{text}"], "count": -3})
    done = subprocess.run(["bash", "-c", f"python program.py {words}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [text, ["a", f"x{text}"], -3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["program.py"]


METHOD = {"pairs": {"metric": "random"}}


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        *[({"name": text}, "name: .*, expected letters") for text in [*TEXTS[:15], "tiny\n", "../x", "a/b", "é"]],
        *[({"methods": {text: METHOD}}, ", expected a name") for text in [*TEXTS, "a\n", "../x"]],
        *[({"reward_models": {text: {"base": "x"}}}, ", expected a name") for text in ("$(touch pwned)", "a\n")],
        *[({"compare": [text]}, "compare: no method") for text in TEXTS],
        *[
            ({"feedback": {"function": f"{text}:f"}}, ", expected module:function")
            for text in ("$(x)", "a b", "os;x", "-m")
        ],
        ({"feedback": {"function": "rewards:vowels\n"}}, ", expected module:function"),
        ({"prompts": {"source": "a{method}.jsonl"}}, "prompts.source: 'a{method}.jsonl': Snakemake reads"),
        ({"policy": {"model": "models/<results>"}}, "policy.model: .* rename the file or folder"),
        ({"evaluation": {"evaluator": {"judge": {"template": "{x}.txt"}}}}, "judge.template: .* rename"),
        ({"clusters": {"embedding": "a}b"}}, "clusters.embedding: .* rename"),
        ({"prompts": {"source": "a\0b.jsonl"}}, r"prompts.source: contains the control character '\\x00'; remove it"),
        ({"prompts": {"source": "a\x1b[2Jb.jsonl"}}, r"prompts.source: contains the control character '\\x1b'"),
        ({"policy": {"model": "pypi:--index-url==x/y#sha256=" + "0" * 64}}, "expected pypi:package==version"),
    ],
)
def test_harmful_texts_are_refused_before_any_job(differences, message):
    with pytest.raises(InputError, match=message):
        checked(merge(merge(TINY, {"policy": {"model": "some/model"}}), differences))


@pytest.mark.parametrize(
    ("judge", "secret"),
    [({"api_key_env": "sk-verysecret"}, "sk-verysecret"), ({"base_url": "https://me:pass@x/v1"}, "pass@")],
)
def test_key_in_config_is_refused_and_not_printed(judge, secret):
    feedback = {"kind": "judge", "judge": {"base_url": "http://x/v1", "model": "m"} | judge}
    with pytest.raises(InputError, match="judge") as caught:
        checked(merge(TINY, {"policy": {"model": "some/model"}, "feedback": feedback}))
    assert secret not in str(caught.value)


def test_every_installed_package_is_pinned():
    """environment.yml pins direct requirements and constraints.txt pins all packages. Both agree."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:])
    asked = CONSTRAINTS["direct"]()
    assert len(asked) > 10 and all(line.count("==") == 1 for line in asked)
    installed = CONSTRAINTS["closure"](asked)
    assert len(installed) > 80
    assert pinned.items() >= installed.items()
    assert all(pinned[canonicalize_name(name)] == version for name, version in (line.split("==") for line in asked))


def test_package_names_cannot_be_flags():
    assert PACKAGE.fullmatch("pypi:a-b.c==1.0/x.gguf#sha256=" + "0" * 64)
    assert not PACKAGE.fullmatch("pypi:-r==1.0/x.gguf#sha256=" + "0" * 64)


def test_captions_have_no_local_folders():
    local = {"template": "~/t/strict.txt", "tie_margin": 0.0, "min_label_mass": 0.01}
    for feedback in (
        {"kind": "judge", "model": "/home/someone/big", "judge": local},
        {"kind": "reward_model", "model": "/home/someone/rm"},
    ):
        assert not {"home", "someone", "~"} & set(re.findall(r"\w+|~", feedback_identity(feedback)))


def test_file_names_with_shell_characters_work(workdir, model_folders):
    """This covers prompts, the model, a judge's template and a server's model."""
    name = "-a b'\"; $(touch pwned) `touch pwned` & *größe"
    rows = "".join(json.dumps({"prompt": f"question {i}"}) + "\n" for i in range(40))
    (workdir.path / f"{name}.jsonl").write_text(rows)
    (workdir.path / f"{name}.txt").write_text("{conversation} {response_a} {response_b}")
    shutil.copytree(model_folders["llama"], workdir.path / name)
    judge = {"base_url": "http://localhost:9/v1", "model": "{x} $(touch pwned)", "template": f"{name}.txt"}
    workdir.configure(
        policy={"model": name},
        prompts={"source": f"{name}.jsonl", "take": None},
        evaluation={"evaluator": {"kind": "judge", "judge": judge}},
    )
    listed = workdir.run("--dry-run", "--printshellcmds")
    assert listed.returncode == 0, listed.stdout
    done = workdir.run("results/tiny/prompts/train.jsonl")
    assert done.returncode == 0, done.stdout
    assert len((workdir.path / "results/tiny/prompts/train.jsonl").read_text().splitlines()) == 32
    assert not list(workdir.path.rglob("pwned"))


def command_lines() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # the process has ended
            continue
    return "\n".join(found)


def test_judge_key_is_never_written(workdir, monkeypatch):
    """The server gets the key, but files, logs, Snakemake's records, output and command lines do not contain it."""
    key, seen, keys = "sk-aKeyThatNobodyMayRead", [], set()

    def answer(question: str) -> str:
        seen.append(command_lines())
        return "A"

    def refuse_once(question: str, attempt: int, headers):
        keys.add(headers["authorization"])
        return

    monkeypatch.setenv("OPENAI_API_KEY", key)
    with JudgeServer(answer, refuse_once) as server:
        judge = {"base_url": server.url, "model": "judge"}
        workdir.configure(feedback={"kind": "judge", "judge": judge}, compare=["uniform"])
        target = "results/tiny/uniform/seed-0/round-1/step-1/rewards.jsonl"
        done = workdir.run("--printshellcmds", "--verbose", target)
        assert done.returncode == 0, done.stdout
    assert keys == {f"Bearer {key}"}
    assert any("reward.py" in lines for lines in seen)
    assert key not in "".join(seen)
    assert key not in done.stdout
    files = [path for path in workdir.path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(".snakemake" in path.parts for path in files) and any(path.suffix == ".log" for path in files)
    assert [path for path in files if key.encode() in path.read_bytes()] == []


@pytest.fixture
def simulated(workdir):
    """Run a tabular simulation, which needs no model, and draw its figure."""
    tabular = {"seeds": 1, "normalized": {"steps": 3}, "empirical": {"steps": 3}}
    workdir.configure(compare=[], figures=["tabular"], tables=[], tabular=tabular)
    done = workdir.run()
    assert done.returncode == 0, done.stdout
    return workdir


def test_code_in_captions_does_not_run_in_the_report(simulated):
    """Captions are plain text, as others may write to a shared folder."""
    (simulated.path / "secret.txt").write_text("the secret")
    code = '{{ cycler.__init__.__globals__.os.system("touch pwned") }}'
    caption = simulated.path / "results/tiny/figures/tabular.rst"
    caption.write_text(f"{code}\n\n.. include:: secret.txt\n")
    done = simulated.run("--report", "report.html")
    assert done.returncode == 0, done.stdout
    assert not (simulated.path / "pwned").exists()
    report = (simulated.path / "report.html").read_text()
    assert "cycler.__init__" in report and ".. include:: secret.txt" in report
    assert "the secret" not in report
    figure = caption.with_suffix(".png")
    figure.unlink()
    figure.symlink_to(simulated.path / "secret.txt")
    done = simulated.run("--report", "report.html")
    assert done.returncode == 1
    assert "results/tiny/figures/tabular.png: a symbolic link, expected a file that a rule has written" in done.stdout
