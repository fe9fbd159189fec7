"""Several prompt sources and a separate evaluation set work, and a changed source reruns the stages that read it."""

from datasets import Dataset

from conftest import Workdir
from prefloop.core.files import read_json
from prefloop.core.jsonl import read_rows

TARGETS = ("results/tiny/prompts/train.jsonl", "results/tiny/reward_models/mine/manifest.json")


def save(workdir: Workdir, name: str) -> None:
    rows = [{"instruction": f"{name} {number}", "output": "yes"} for number in range(6)]
    Dataset.from_list(rows).save_to_disk(workdir.path / "saved evaluation")


def test_sources_are_read_and_changes_rerun_their_readers(workdir, model_folders):
    """Comments of a function do not matter. Changed code, tables and saved folders do."""
    (workdir.path / "my_data.py").write_text("def rows():\n    return [{'prompt': f'a {n}'} for n in range(40)]\n")
    table = "question,best,worst\n" + "".join(f"b {n},good,bad\n" for n in range(40))
    (workdir.path / "my pairs.csv").write_text(table)
    template = [{"role": "user", "content": "Say: {instruction}"}]
    save(workdir, "c")
    columns = {"prompt": "question", "chosen": "best", "rejected": "worst"}
    pairs = {"source": "my pairs.csv", "columns": columns}
    sources = [{"source": "my_data.py:rows", "share": 0.5}, pairs | {"share": 0.5}]
    workdir.configure(
        prompts={"source": None, "take": 60, "sources": sources},
        evaluation={"prompts": {"source": "saved evaluation", "messages_template": template}},
        feedback={"kind": "reward_model", "model": "trained:mine", "function": None},
        reward_models={"mine": pairs | {"base": str(model_folders["llama"]), "max_tokens": 64, "dtype": "float32"}},
    )
    done = workdir.run(*TARGETS)
    assert done.returncode == 0, done.stdout
    train = read_rows(workdir.path / TARGETS[0])
    assert [row["source"] for row in train].count("my pairs.csv") == 30 == len(train) / 2
    texts = {row["messages"][0]["content"] for row in read_rows(workdir.path / "results/tiny/prompts/eval.jsonl")}
    assert texts == {f"Say: c {number}" for number in range(6)}
    account = read_json(workdir.path / "results/tiny/prompts/sources.json")
    assert [source["prompts"] for source in account["sources"]] == ["train", "train", "eval"]

    workdir.append("my_data.py", "# the same")
    assert workdir.jobs(*TARGETS) == set()
    workdir.append("my_data.py", "TWICE = 2")
    assert workdir.jobs(*TARGETS) == {"prepare_prompts"}
    workdir.append("my pairs.csv", "b 41,good,bad")
    assert workdir.jobs(*TARGETS) == {"prepare_prompts", "train_reward_model"}
    assert workdir.run(*TARGETS).returncode == 0
    save(workdir, "d")
    assert workdir.jobs(*TARGETS) == {"prepare_prompts"}
