"""The program prepare_prompts: several sources, a separate evaluation set, and counts of dropped rows."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, SHARED_DATA
from data_hub import DataHub
from prefloop.core.files import read_json
from prefloop.core.jsonl import read_rows
from steps import PROMPT_OUTPUTS

PROGRAM = str(ROOT / "workflow/scripts/prepare_prompts.py")
STRICT = (  # like the templates of Gemma and Mistral: no system role, and user and assistant must alternate
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
)
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello"},
    {"role": "user", "content": "Capital of France?"},
]


@pytest.fixture
def prepare(manifests, tmp_path, monkeypatch, capsys):
    """Runs the program as Snakemake does; returns its summary line or its error message."""
    monkeypatch.chdir(tmp_path)

    def run(*flags: str, model: Path = manifests["llama"]) -> str:
        inputs = ["--packaged", "packaged.jsonl", "--model", str(model), "--max-prompt-tokens", "400"]
        monkeypatch.setattr("sys.argv", [PROGRAM, *inputs, *PROMPT_OUTPUTS, *flags])
        try:
            runpy.run_path(PROGRAM, run_name="__main__")
        except SystemExit as error:
            return str(error.code)
        return capsys.readouterr().out.splitlines()[-1]

    return run


def write(path: str, rows: list[dict]) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def numbered(name: str, count: int) -> list[dict]:
    return [{"prompt": f"{name} {number}"} for number in range(count)]


def texts(name: str) -> list[str]:
    return [row["messages"][-1]["content"] for row in read_rows(Path(f"{name}.jsonl"))]


def test_every_source_has_its_counts(prepare):
    pair = {side: [*TURNS, {"role": "assistant", "content": side}] for side in ("chosen", "rejected")}
    rows = [*numbered("a", 5), numbered("a", 1)[0], pair, pair | {"prompt": "x", "chosen": TURNS}]
    rows += [
        {"prompt": "Hi", **pair, "rejected": [TURNS[0], *pair["rejected"][1:2]]},
        {"prompt": "b", "chosen": "", "rejected": "c"},
    ]
    first = write("first.jsonl", rows)
    with Path("second.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question"], ["why?"], ["a 1"], ["x" * 500]])
    sources = [{"source": first}, {"source": "second.csv", "columns": {"prompt": "question"}}]
    line = prepare("--sources", json.dumps(sources))
    assert "of 13 rows of first.jsonl, second.csv" in line
    account = read_json(Path("sources.json"))
    assert (account["train"], account["eval"]) == (8, 1)
    assert account["near_duplicates"] == 0
    one, two = account["sources"]
    assert one == {
        **{"prompts": "train and eval", "source": first, "subset": None, "split": "train", "format": "columns"},
        **{"commit": None, "share": None, "rows": 10, "kept": 8},
        "dropped": {"repeated": 1, "longer than 400 tokens": 0, "ending with the user": 1},
        "dropped_pairs": {"with an empty response": 1, "that differ before the last turn": 1},
    }
    assert (two["rows"], two["kept"]) == (3, 1)
    assert two["dropped"] == {"repeated": 1, "longer than 400 tokens": 1}
    kept = [*read_rows(Path("train.jsonl")), *read_rows(Path("eval.jsonl"))]
    assert {row["messages"][0]["content"]: row["source"] for row in kept}["why?"] == "second.csv"
    assert one["kept"] + two["kept"] == len(kept)
    for source in (one, two):
        assert source["rows"] == source["kept"] + sum(source["dropped"].values())


def test_single_source_is_not_recorded_in_rows(prepare):
    prepare("--source", write("a.jsonl", numbered("a", 5)))
    assert all("source" not in row for row in read_rows(Path("train.jsonl")))


def test_shares_of_take(prepare):
    sources = [
        {"source": write("a.jsonl", numbered("a", 50)), "share": 0.25},
        {"source": write("b.jsonl", numbered("b", 50)), "share": 0.75},
    ]
    prepare("--sources", json.dumps(sources), "--take", "40")
    names = [text[0] for text in texts("train") + texts("eval")]
    assert (names.count("a"), names.count("b")) == (10, 30)
    assert prepare("--sources", json.dumps(sources), "--take", "80") == (
        "error: prompts.sources: source 2 has 50 prompts, but its share of 80 is 60; lower take"
    )


def test_separate_evaluation_set(prepare):
    """All of its prompts are evaluated, and exact repeats are removed from training. Both sets may use the same ids."""
    train = write("train_set.jsonl", [row | {"prompt_id": n} for n, row in enumerate(numbered("a", 30))])
    rows = [{"instruction": text, "output": "yes", "generator": "x"} for text in ("a 3", "b", "c", "d")]
    Path("alpaca_eval.json").write_text(json.dumps(rows, indent=2))
    flags = ["--source", train, "--evaluation.source", "alpaca_eval.json", "--evaluation.format", "alpaca_eval"]
    line = prepare(*flags)
    assert sorted(texts("eval")) == ["a 3", "b", "c", "d"]
    assert all(row["chosen"] == "yes" for row in read_rows(Path("eval.jsonl")))
    assert sorted(texts("train")) == sorted(f"a {n}" for n in range(30) if n != 3)
    assert "29 for training of 30 rows of train_set.jsonl, 4 for evaluation of 4 rows of alpaca_eval.json" in line
    account = read_json(Path("sources.json"))
    assert [source["prompts"] for source in account["sources"]] == ["train", "eval"]
    assert account["sources"][0]["dropped"]["in the evaluation set"] == 1
    prepare(*flags, "--evaluation.take", "2", "--take", "5")
    assert (len(texts("train")), len(texts("eval"))) == (5, 2)
    assert "error: evaluation.prompts.take asks for 9 prompts, but the source has 4" in prepare(
        *flags, "--evaluation.take", "9"
    )


LONG = "Explain to a child of ten years why the sky is blue in the day and red"


@pytest.mark.parametrize("drop", [True, False])
def test_near_duplicates_are_counted_and_optionally_dropped(prepare, drop):
    write("eval_set.jsonl", [{"prompt": LONG}, {"prompt": "Name a prime."}])
    near = [{"prompt": f"{LONG} at night"}, {"prompt": "name a prime"}]
    write("train_set.jsonl", [*near, *numbered("a", 8)])
    flags = ["--source", "train_set.jsonl", "--evaluation.source", "eval_set.jsonl"]
    line = prepare(*flags, "--drop-near-duplicates", str(drop))
    account = read_json(Path("sources.json"))
    assert (account["near_duplicates"], account["near_duplicates_dropped"]) == (2, drop)
    assert account["train"] == len(texts("train")) == 8 + 2 * (not drop)
    assert "2 training prompts nearly repeat an eval prompt" in line
    write("train_set.jsonl", near)
    if drop:
        assert "no training prompt is left: 2 training prompts" in prepare(*flags, "--drop-near-duplicates", "True")


def test_near_duplicates_within_one_source(prepare):
    """Near-duplicates of eval prompts are also found if one source is split."""
    rows = [{"prompt": f"{LONG} {text}"} for text in ("at night", "at noon", "in May", "in June")]
    prepare("--source", write("a.jsonl", rows), "--eval-fraction", "0.25")
    assert read_json(Path("sources.json"))["near_duplicates"] == 3


def test_roles_that_the_template_refuses_are_dropped_or_merged(prepare, manifests, tmp_path):
    """Such a prompt does not stop the run."""
    model = tmp_path / "strict"
    shutil.copytree(manifests["llama"].parent, model)
    (model / "chat_template.jinja").write_text(STRICT)
    rows = [{"prompt": [{"role": "system", "content": "Be brief."}, *TURNS]}, {"prompt": [TURNS[2], TURNS[2]]}]
    rows += [{"prompt": TURNS[1:]}, *numbered("a", 4)]
    flags = ["--source", write("a.jsonl", rows)]
    line = prepare(*flags, model=model / "manifest.json")
    assert "3 with roles that the chat template refuses" in line
    assert len(texts("train") + texts("eval")) == 4
    prepare(*flags, "--merge-roles", "True", model=model / "manifest.json")
    (source,) = read_json(Path("sources.json"))["sources"]
    assert source["dropped"]["with roles that the chat template refuses"] == 1
    merged = [row["messages"] for row in read_rows(Path("train.jsonl")) + read_rows(Path("eval.jsonl"))]
    assert [{"role": "user", "content": "Be brief.\n\nHi"}, *TURNS[1:]] in merged
    assert [{"role": "user", "content": "Capital of France?\n\nCapital of France?"}] in merged


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("[", "prompts.sources: not JSON"),
        ("{}", "expected a list of sources with keys source, subset"),
        ('[{"sorce": "a.jsonl"}]', "expected a list of sources with keys source, subset"),
    ],
)
def test_invalid_sources_flag_raises(prepare, sources, message):
    assert message in prepare("--sources", sources)


def test_hub_revisions_are_pinned_and_recorded(manifests, tmp_path):
    """sources.json records the commit of the revision, or the newest commit if none is given."""
    contents = {
        revision: {"train.jsonl": "".join(json.dumps(row) + "\n" for row in numbered(revision, 4)).encode()}
        for revision in ("main", "v1.0")
    }
    with DataHub("owner/data", contents) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "0"}
        for source, revision in [("hub:owner/data", "main"), ("hub:owner/data@v1.0", "v1.0")]:
            flags = ["--packaged", "x", "--model", str(manifests["llama"]), "--train", "t.jsonl", "--eval", "e.jsonl"]
            command = [
                sys.executable,
                PROGRAM,
                *flags,
                "--provenance",
                "sources.json",
                "--chat",
                "chat.json",
                "--source",
                source,
            ]
            done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            (counts,) = read_json(tmp_path / "sources.json")["sources"]
            assert (counts["source"], counts["commit"]) == (source, hub.commits[revision])
            assert read_rows(tmp_path / "e.jsonl")[0]["messages"][0]["content"].startswith(revision)


@pytest.mark.skipif(not Path(SHARED_DATA).is_file(), reason="the HH-RLHF pairs are not on this machine")
def test_real_hh_pairs_that_differ_are_counted(prepare):
    """Four other pairs that differ are dropped because they have two answers in a row."""
    prepare("--source", str(SHARED_DATA), "--format", "hh_rlhf")
    (source,) = read_json(Path("sources.json"))["sources"]
    assert source["rows"] == 2312 == source["kept"] + sum(source["dropped"].values())
    assert source["dropped"]["with two answers in a row"] == 4
    assert source["dropped_pairs"]["that differ before the last turn"] == 1
