"""Additional pairs of a round, replayed or from the data set: their number, choice and columns."""

import pytest

from prefloop.config.training_settings import MixConfig, Replay
from prefloop.core.errors import InputError
from prefloop.core.jsonl import write_rows
from prefloop.data.mixed_pairs import DATASET, REPLAY, count_additions, draw_additions

ASKED = [{"role": "user", "content": "1?"}]


@pytest.fixture
def earlier(tmp_path):
    """The pairs.jsonl of rounds 2 and 1, in this order, with 30 pairs each."""
    paths = [tmp_path / f"{number}.jsonl" for number in (2, 1)]
    for path in paths:
        rows = [{"prompt_id": f"{path.stem}-{i}", "logp_ref_chosen": -9.0} for i in range(30)]
        write_rows(
            path, (row | {"messages": ASKED, "token_ids_chosen": [1], "token_ids_rejected": [2]} for row in rows)
        )
    return paths


@pytest.fixture
def prompts(tmp_path):
    """Twenty prompts; eight of them have two different responses."""
    path = tmp_path / "train.jsonl"
    rows = [{"prompt_id": f"p{i}", "messages": [{"role": "user", "content": f"{i}?"}]} for i in range(20)]
    for i, row in enumerate(rows[:10]):
        row |= {"chosen": f"yes {i}", "rejected": f"yes {i}" if i < 2 else "no"}
    write_rows(path, rows)
    return path


def encode(messages: list[dict], text: str) -> list[int]:
    return [int(messages[0]["content"][:-1]), *text.encode()]


def draw(own: int, earlier: list, prompts, seed: int = 0, round_index: int = 3, **shares: float) -> tuple:
    settings = MixConfig(Replay(rounds=2, share=shares.get(REPLAY, 0.0)), offline_share=shares.get(DATASET, 0.0))
    return draw_additions(own, settings, earlier, prompts, seed, round_index, encode)


@pytest.mark.parametrize(
    ("shares", "candidates", "counts"),
    [
        ((0.25, 0.25), (99, 99), {REPLAY: 16, DATASET: 16}),  # 64 pairs in total
        ((0.25, 0.25), (0, 99), {DATASET: 11}),  # 42.7 pairs in total, as in round 1 without replay
        ((0.5, 0.0), (99, 99), {REPLAY: 32}),
        ((0.5, 0.0), (7, 99), {REPLAY: 32}),  # more than the candidates
        ((0.0, 0.0), (99, 99), {}),
    ],
)
def test_shares_are_fractions_of_all_pairs(shares, candidates, counts):
    origins = (REPLAY, DATASET)
    found = count_additions(32, dict(zip(origins, shares, strict=True)), dict(zip(origins, candidates, strict=True)))
    assert found == counts


def test_replayed_rows_are_distinct_and_name_their_round(earlier):
    rows, warning = draw(40, earlier, None, replay=0.5)
    assert warning == ""
    assert len({row["prompt_id"] for row in rows}) == len(rows) == 40
    assert all(row["prompt_id"].startswith(f"{row['round']}-") for row in rows)
    assert {row["round"] for row in rows} == {1, 2}
    assert {row["origin"] for row in rows} == {REPLAY}
    assert draw(40, earlier, None, replay=0.5)[0] == rows
    for others in ({"seed": 1}, {"round_index": 4}):
        assert {r["prompt_id"] for r in draw(40, earlier, None, replay=0.5, **others)[0]} != {
            r["prompt_id"] for r in rows
        }


def test_pairs_from_the_data_set_have_the_columns_of_pairs(prompts):
    rows, _ = draw(8, [], prompts, dataset=0.5)
    assert {row["prompt_id"] for row in rows} == {f"p{i}" for i in range(2, 10)}, "prompts with two different responses"
    row = rows[0]
    assert (row["chosen"], row["rejected"], row["origin"], row["round"]) == ("yes 2", "no", DATASET, 3)
    assert (row["reward_chosen"], row["reward_rejected"]) == (1.0, 0.0)
    assert row["token_ids_chosen"] == [2, *b"yes 2"]
    assert (row["n_chosen"], row["n_rejected"]) == (6, 3)


def test_replay_does_not_change_the_draw_from_the_data_set(earlier, prompts):
    alone = draw(9, [], prompts, dataset=0.25)[0]
    both = [row for row in draw(6, earlier, prompts, dataset=0.25, replay=0.25)[0] if row["origin"] == DATASET]
    assert both == alone
    assert len(alone) == 3


def test_too_few_pairs_are_all_taken_with_a_warning(earlier, prompts):
    rows, warning = draw(100, earlier, prompts, replay=0.4, dataset=0.2)
    assert len(rows) == 60 + 8
    assert warning == (
        "fewer pairs than asked for: 60 of 100 of origin replay, 8 of 50 of origin dataset; lower the shares of "
        "section pairs"
    )


def test_no_pair_in_the_data_set_raises(tmp_path):
    write_rows(tmp_path / "train.jsonl", [{"prompt_id": "a", "messages": ASKED, "chosen": "x", "rejected": "x"}])
    with pytest.raises(InputError, match=r"train.jsonl: no prompt comes with a pair of responses; set pairs.offline"):
        draw(4, [], tmp_path / "train.jsonl", dataset=0.5)
