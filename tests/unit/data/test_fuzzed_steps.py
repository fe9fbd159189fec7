"""Random mutations of the files between stages, which users share and edit: a result, or a one-line error."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mutations import as_json, fuzzing, is_short_line, mutated
from prefloop.core.errors import InputError
from prefloop.core.jsonl import read_rows, write_rows
from prefloop.core.shards import gather_shards
from prefloop.data.pairs import best_worst_pairs, to_columns
from prefloop.data.pfp_rows import join_step, read_joined
from prefloop.data.round_pairs import read_pairs, scan_pairs, training_row

IDS = [{"prompt_id": "p", "cluster": 0, "response_id": number} for number in range(2)]
TEXTS = {"token_ids": [1, 2], "sampler": "policy", "component": "policy", "finish_reason": "stop", "n_tokens": 2}
JUDGED = [{"reward": 1.0, "beats": [1], "judged": [[1, 1.0, 1.0]], "answers": [[["A", ""], ["B", ""]]]}]
JUDGED += [{"reward": 0.0, "beats": [], "judged": [], "answers": []}]
REWARDS = [[ids | {"reward": 1.5 - number} for number, ids in enumerate(IDS)]]
REWARDS += [[row | {"reward_a": row["reward"], "reward_b": 0.5, "disagreement": 0.2} for row in REWARDS[0]]]
REWARDS += [[ids | judged for ids, judged in zip(IDS, JUDGED, strict=True)]]
FILES = {
    "prompts": [{"prompt_id": "p", "cluster": 0, "messages": [{"role": "user", "content": "hi"}]}],
    "generations": [ids | {"response": f"r{ids['response_id']}"} | TEXTS for ids in IDS],
    "rewards": REWARDS[0],
    "logprobs": [ids | {"n_tokens": 2, "logp": -3.5, "logp_ref": -4.0} for ids in IDS],
}


def is_read(read, *arguments) -> bool:
    """Return whether `read` succeeds; False if it raises a one-line InputError."""
    try:
        read(*arguments)
    except InputError as error:
        assert is_short_line(str(error)), str(error)
        return False
    return True


def select(pfp) -> None:
    """Read a pfp.jsonl as select_pairs and update_arms do, and write pairs.jsonl."""
    pairs = scan_pairs([pfp])
    write_rows(pfp.with_name("pairs.jsonl"), map(training_row, read_pairs(pairs, range(len(pairs)))))
    to_columns(best_worst_pairs(row for _, row in read_joined(pfp)))


@given(data=st.data())
@fuzzing(600)
def test_fuzzed_files_of_a_step(tmp_path_factory, data):
    """For any row, the stages that read it succeed or raise an error with file and line."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed step"
    folder.mkdir(exist_ok=True)
    rows = FILES | {"rewards": data.draw(st.sampled_from(REWARDS))}
    edited = data.draw(st.sampled_from(sorted(rows)))
    for name in FILES:
        content = data.draw(mutated(rows[name])) if name == edited else rows[name]
        content = content if isinstance(content, list) else [content]
        (folder / f"{name}.jsonl").write_text("".join(as_json(row) + "\n" for row in content))
    paths = [folder / f"{name}.jsonl" for name in ("prompts", "generations", "rewards", "logprobs")]
    pfp = folder / "pfp.jsonl"
    is_read(lambda: gather_shards([folder / "rewards.jsonl"], ["p"]))
    if is_read(lambda: write_rows(pfp, join_step(*paths))):
        is_read(select, pfp)


@pytest.fixture(params=REWARDS, ids=["rewards", "ensemble", "judgments"])
def joined(request, tmp_path):
    """The path of a valid pfp.jsonl."""
    for name, rows in (FILES | {"rewards": request.param}).items():
        write_rows(tmp_path / f"{name}.jsonl", rows)
    paths = [tmp_path / f"{name}.jsonl" for name in ("prompts", "generations", "rewards", "logprobs")]
    write_rows(tmp_path / "pfp.jsonl", join_step(*paths))
    return tmp_path / "pfp.jsonl"


def test_fuzzed_joined_rows(joined):
    """Mutates the row of a pfp.jsonl, as if a user had edited it."""
    (row,) = read_rows(joined)
    select(joined)

    @given(edited=mutated(row))
    @fuzzing(600)
    def check(edited):
        joined.write_text(as_json(edited) + "\n")
        is_read(select, joined)

    check()


@pytest.mark.parametrize("value", ["1" + "0" * 400, "1e400", "NaN", "-Infinity", '"x"', "[1]", '"\\ud800"', "[" * 5000])
@pytest.mark.parametrize(("name", "field"), [("rewards", "reward"), ("logprobs", "logp"), ("generations", "response")])
def test_invalid_value_raises_with_file_and_line(joined, name, field, value):
    """Covers numbers beyond float range, lone surrogates and deep nesting."""
    path = joined.with_name(f"{name}.jsonl")
    row = read_rows(path)[1] | {field: "@"}
    if field == "response" and value == '"x"':
        pytest.skip("a response is text")
    path.write_text(path.read_text().splitlines()[0] + "\n" + json.dumps(row).replace('"@"', value) + "\n")
    paths = [joined.with_name(f"{name}.jsonl") for name in ("prompts", "generations", "rewards", "logprobs")]
    with pytest.raises(InputError, match=rf"{name}\.jsonl, line 2: ") as caught:
        list(join_step(*paths))
    assert is_short_line(str(caught.value))
