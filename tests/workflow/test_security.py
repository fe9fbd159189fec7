"""Nothing that a config, a model or an intermediate file says is executed, and secrets stay where they are."""

import ast
import json
import os
import pickle
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from packaging.utils import canonicalize_name

import constraints
from conftest import ROOT, TINY, merge
from judge_server import JudgeServer
from prefloop.chat import load_tokenizer
from prefloop.checks import checked, load_schema
from prefloop.classifiers import RewardModel
from prefloop.clusters import read_clusters, write_clusters
from prefloop.config import flags, in_words
from prefloop.fetch import PACKAGE, fetch
from prefloop.models import load_base
from prefloop.policies import read_policy
from prefloop.rows import InputError, read_json

SOURCES = [path for part in ("workflow", "benchmarks") for path in sorted((ROOT / part).rglob("*.py"))]
FORBIDDEN = {  # what executes or may execute what a file says
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "os.system", "os.popen", "eval", "exec"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "subprocess.getoutput", "shelve.open", "marshal.loads"),
}
TEXTS = ["a b", 'it\'s "x"', "$(touch pwned)", "`touch pwned`", "a\ntouch pwned", "; touch pwned #", "-rf", "--help"]
TEXTS += ["größe → ✓", "*?[a]", "~", "&& touch pwned", "\\", "$HOME", "!x", "|touch pwned", "{x}", "-1"]


def calls(path: Path):
    """(dotted name, keyword arguments, line) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: k.value for k in node.keywords}, f"{path}:{node.lineno}"


def is_literally(node: ast.expr | None, value) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def test_no_program_calls_what_executes_a_file():
    found = [where for path in SOURCES for name, _, where in calls(path) if name in FORBIDDEN]
    assert found == []
    loose = [where for path in SOURCES for _, words, where in calls(path) if is_literally(words.get("shell"), True)]
    loose += [w for path in SOURCES for _, words, w in calls(path) if is_literally(words.get("allow_pickle"), True)]
    assert loose == []


def test_torch_loads_weights_only():
    tree = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
    found = [(words, where) for path in tree for name, words, where in calls(path) if name == "torch.load"]
    assert len(found) > 3
    assert [where for words, where in found if not is_literally(words.get("weights_only"), True)] == []


def test_every_model_and_tokenizer_is_told_whether_to_trust_code():
    """Said in every call, as transformers asks on the terminal where it is not; and never True of its own accord.

    The Auto classes can run a repository's code, and no others.
    """
    loaders = [call for path in SOURCES for call in calls(path) if call[0].endswith(".from_pretrained")]
    found = [(words, where) for name, words, where in loaders if "GenerationConfig" not in name]
    assert len(found) > 6
    said = [where for words, where in found if "trust_remote_code" in words]
    assert said == [where for _, where in found]
    assert [where for words, where in found if is_literally(words["trust_remote_code"], True)] == []


@pytest.fixture
def with_code(model_folders, tmp_path) -> Path:
    """A fetched model whose folder brings code of its own for everything that can be loaded; run, it makes a file."""
    source = tmp_path / "source"
    shutil.copytree(model_folders["llama"], source)
    (source / "own.py").write_text(
        f"from pathlib import Path\nPath({str(tmp_path / 'pwned')!r}).touch()\n"
        "from transformers import LlamaConfig, LlamaForCausalLM\n"
        "class Own(LlamaConfig):\n    model_type = 'own'\n"
        "class Model(LlamaForCausalLM):\n    config_class = Own\n"
    )
    config = read_json(source / "config.json")
    kinds = ["AutoModel", "AutoModelForCausalLM", "AutoModelForSequenceClassification"]
    own = {"AutoConfig": "own.Own"} | {kind: "own.Model" for kind in kinds}
    (source / "config.json").write_text(json.dumps(config | {"model_type": "own", "auto_map": own}))
    return source


def test_a_models_own_code_runs_only_if_config_says_so(with_code, tmp_path):
    fetch(str(with_code), tmp_path / "fetched")
    manifest = tmp_path / "fetched/manifest.json"
    loaders = [
        lambda: load_base(manifest, torch.float32),
        lambda: RewardModel(manifest, 1, 1),
    ]
    for load in loaders:
        with pytest.raises(InputError, match="trust_remote_code|custom code"):
            load()
    load_tokenizer(manifest.parent)  # whose words are a file
    assert not (tmp_path / "pwned").exists()
    fetch(str(with_code), tmp_path / "trusted", trust_remote_code=True)
    load_base(tmp_path / "trusted/manifest.json", torch.float32)
    assert (tmp_path / "pwned").exists()


class Poison:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_poisoned_policy_is_refused_and_nothing_runs(trained, tmp_path):
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
    assert (tmp_path / "pwned").exists(), "the poison works where it is let in"


def test_broken_clusters_are_refused_whatever_their_bytes(tmp_path):
    """Neither code nor a crash: numpy's own unpickling, given such bytes, ends in a segmentation fault."""
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
def test_flags_bring_any_text_through_the_shell(tmp_path, text):
    """bash and tyro give a program the very text that config holds."""
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


SCHEMA = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
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
        ({"prompts": {"source": "a\0b.jsonl"}}, "prompts.source: holds a control character"),
        ({"prompts": {"source": "a\x1b[2Jb.jsonl"}}, "prompts.source: holds a control character"),
        ({"policy": {"model": "pypi:--index-url==x/y#sha256=" + "0" * 64}}, "expected pypi:package==version"),
    ],
)
def test_texts_that_could_harm_are_refused_before_any_job(differences, message):
    with pytest.raises(InputError, match=message):
        checked(merge(merge(TINY, {"policy": {"model": "some/model"}}), differences), SCHEMA)


@pytest.mark.parametrize(
    ("judge", "secret"),
    [({"api_key_env": "sk-verysecret"}, "sk-verysecret"), ({"base_url": "https://me:pass@x/v1"}, "pass@")],
)
def test_a_key_in_config_is_refused_and_not_repeated(judge, secret):
    feedback = {"kind": "judge", "judge": {"base_url": "http://x/v1", "model": "m"} | judge}
    with pytest.raises(InputError, match="judge") as caught:
        checked(merge(TINY, {"policy": {"model": "some/model"}, "feedback": feedback}), SCHEMA)
    assert secret not in str(caught.value)


def test_every_package_that_is_installed_is_pinned():
    """What environment.yml asks for is pinned there, and all that it brings in constraints.txt; both agree."""
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()[1:])
    asked = constraints.direct()
    assert len(asked) > 10 and all(line.count("==") == 1 for line in asked)
    installed = constraints.closure(asked)
    assert len(installed) > 80
    assert pinned.items() >= installed.items()
    assert all(pinned[canonicalize_name(name)] == version for name, version in (line.split("==") for line in asked))


def test_a_package_named_like_a_flag_is_none():
    assert PACKAGE.fullmatch("pypi:a-b.c==1.0/x.gguf#sha256=" + "0" * 64)
    assert not PACKAGE.fullmatch("pypi:-r==1.0/x.gguf#sha256=" + "0" * 64)


def test_captions_name_no_folder_of_this_machine():
    judge = {"kind": "judge", "model": "/home/someone/big", "judge": {"model": None, "template": "~/t/strict.txt"}}
    assert in_words(judge) == "the judge big with strict.txt"
    assert in_words({"kind": "reward_model", "model": "/data/me/rm", "judge": {"model": None}}) == "the reward model rm"
    assert in_words({"kind": "reward_model", "model": "a/b", "judge": {"model": None}}) == "the reward model a/b"


def test_files_of_any_name_work(workdir, model_folders):
    """Prompts and the model have names that a shell would act on; a judge's template and a server's model, too."""
    name = "-a b'\"; $(touch pwned) `touch pwned` &\n*größe"
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
        except OSError:  # it has ended meanwhile
            continue
    return "\n".join(found)


def test_a_judges_key_is_written_nowhere(workdir, monkeypatch):
    """Asked through Snakemake: the key reaches the server, and no file, log, record, message or command line."""
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
