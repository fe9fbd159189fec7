"""Contradictory settings are refused with the reason, before any job."""

import gzip

import pytest

from conftest import TINY, merge
from prefloop.config.consistency import doubts
from prefloop.config.validation import checked
from prefloop.core.errors import InputError

VALID = merge(TINY, {"policy": {"model": "some/model"}})


@pytest.mark.parametrize(
    ("lines", "take", "differences", "message"),
    [
        (57, None, {"bandit": {"budget": 13}}, "52 prompts in all, but prompts.source with 57 lines leaves 51 for"),
        (58, None, {"bandit": {"budget": 13}}, None),
        (100, 57, {"bandit": {"budget": 13}}, "52 prompts in all, but prompts.take leaves 51 for"),
        (57, None, {"bandit": {"budget": 13, "reuse": True}}, None),
        (57, None, {"clusters": {"k": 52}}, "clusters.k: 52, but prompts.source with 57 lines leaves 51 to cluster"),
        (0, None, {}, "prompts.source with 0 lines leaves 0 for training"),
    ],
)
@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz"])
def test_file_with_too_few_prompts_is_refused(lines, take, differences, message, name, tmp_path):
    content = b'{"prompt": "x"}\n' * lines
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    prompts = {"source": str(tmp_path / name), "take": take, "eval_fraction": 0.1}
    config = merge(merge(VALID, differences), {"prompts": prompts})
    if message is None:
        checked(config)
    else:
        with pytest.raises(InputError, match=message):
            checked(config)


SERVER = {"kind": "judge", "judge": {"base_url": "http://localhost/v1", "model": "big"}}
FUNCTION = {"function": "prefloop.feedback.lexicons:afinn"}
IMPOSSIBLE = [
    ({"generation": {"engine": "vllm", "sampler": "mixp"}}, "generation.engine: vllm cannot mix two models' logits"),
    ({"generation": {"sampler": "mixp", "n": 3}}, "generation.n: 3, but the groups of sampler mixp give 2"),
    (
        {"generation": {"sampler": "policy_reference", "n": 5}},
        "generation.n: 5, but the groups",
    ),
    (
        {"generation": {"sampler": "reference"}, "reference": {"kind": "previous"}},
        "generation.sampler: reference needs a reference other than the policy",
    ),
    (
        {"generation": {"sampler": "mixp", "n": 2}, "reference": {"kind": "previous"}},
        "generation.sampler: mixp needs a reference other than the policy",
    ),
    ({"feedback": {"kind": "dataset"}}, "feedback.kind: dataset labels only the data set's own responses"),
    ({"acquisition": {"rule": "drts", "labels": 3}}, "acquisition.labels: 3, but a prompt has 3 responses"),
    (
        {"acquisition": {"rule": "drts", "pool": 2}, "bandit": {"allocation": "all"}},
        "acquisition.pool: 2 times the budget, but bandit.allocation all has no budget",
    ),
    (
        {"acquisition": {"rule": "drts", "pool": 4}},
        "bandit.budget: 16 per step makes 64 prompts in all, but prompts.take leaves 48",
    ),
    (
        {"acquisition": {"rule": "drts"}, "pairs": {"top_n": 9}},
        "pairs.top_n: 9, but a round has at most 8 pairs; .* or acquisition.labels",
    ),
    (
        {"acquisition": {"rule": "drts"}, "feedback": {"kind": "dataset"}, "generation": {"sampler": "dataset"}},
        "acquisition.rule: feedback.kind dataset labels both responses",
    ),
    ({"train": {"loss": "xpo"}}, "train.loss: xpo needs a response of the reference, but sampler policy gives none"),
    (
        {"bandit": {"allocation": "thompson", "normalize": "identity"}},
        "bandit.normalize: allocation thompson needs rewards in",
    ),
    (
        {"train": {"beta_rule": "schedule"}},
        "train.beta_schedule.values: empty, but beta_rule schedule needs at least one",
    ),
    ({"train": {"beta_rule": "risk", "loss": "ipo"}}, "train.beta_risk.beta_min: loss ipo divides by beta"),
    ({"train": {"loss": {"dpo": 1.0, "xpo": 0.5}}}, "train.loss: xpo needs a response of the reference"),
    ({"train": {"beta_rule": "risk", "loss": {"dpo": 1, "sppo": 1}}}, "beta_min: loss sppo divides by beta"),
    ({"train": {"label_smoothing": 0, "loss": {"exo": 1, "nll": 1}}}, "label_smoothing: loss exo needs a value above"),
    ({"train": {"loss": {"dpo": 1, "aot": 1}, "pair_weights": "wpo"}}, "pair_weights: wpo weights single pairs, but"),
    ({"train": {"ld_alpha": 0.5, "loss": "simpo"}}, "train.ld_alpha: needs losses of the margin .* loss is simpo"),
    ({"train": {"ld_alpha": 0.5, "pair_weights": "wpo"}}, "train.ld_alpha: pair_weights wpo uses entire responses"),
    ({"train": {"ld_alpha": 0.5}, "pairs": {"offline_share": 0.2}}, "train.ld_alpha: pairs.replay and pairs.offline"),
    ({"train": {"lora": {"dora": True}}, "reference": {"kind": "ema"}}, "train.lora.dora: reference.kind ema averages"),
    ({"train": {"lora": {"target_modules": ["q", "q"]}}}, "train.lora.target_modules: q occurs more than once"),
    ({"train": {"loss": {"dpo": 1, "lost.py:hinge": 1}}}, "train.loss: lost.py: no such file"),
    ({"train": {"beta_rule": "risk", "beta_risk": {"beta_min": 3.0}}}, "train.beta: 0.1 is outside"),
    ({"train": {"beta_rule": "risk"}}, "train.beta_risk.warmup: 120 steps, but the rule sees at most 4"),
    (
        {"train": {"beta_rule": "risk", "carry_beta": False, "beta_risk": {"warmup": 2}}},
        "train.beta_risk.warmup: 2 steps, but the rule sees at most 2",
    ),
    ({"bandit": {"budget": 13}}, "bandit.budget: 13 per step makes 52 prompts in all, but prompts.take leaves 48"),
    ({"bandit": {"allocation": "exp3", "neighbors": 1}}, "bandit.neighbors: exp3 keeps its own weights"),
    (
        {"pairs": {"metric": "difficulty"}, "reference": {"kind": "previous"}},
        "pairs.metric: difficulty compares with the reference",
    ),
    (
        {"bandit": {"allocation": "top_k", "metric": "dpo_weight"}, "reference": {"kind": "previous"}},
        "bandit.metric: dpo_weight compares with the reference",
    ),
    (
        {"pairs": {"metric": "implicit_margin"}, "reference": {"kind": "previous"}},
        "pairs.metric: implicit_margin compares with the reference",
    ),
    (
        {"pairs": {"metric": "agreement"}},
        "pairs.metric: agreement compares the members of an ensemble, but",
    ),
    ({"bandit": {"metric": "disagreement"}}, "bandit.metric: disagreement compares the members of an ensemble, but"),
    ({"pairs": {"first_metric": "agreement"}}, "pairs.first_metric: agreement compares the members of an ensemble"),
    ({"pairs": {"first_metric": "difficulty"}}, "pairs.first_metric: difficulty compares with the reference, which in"),
    ({"pairs": {"pairing": "sweet_spot"}}, "pairs.pairing: sweet_spot .* almost all for generation.n 3; raise"),
    (
        {"pairs": {"pairing": "sweet_spot"}, "generation": {"n": 8, "sampler": "best_worst"}},
        "pairs.pairing: sampler best_worst leaves one pair per prompt, so sweet_spot has no choice",
    ),
    (
        {"pairs": {"pairing": "sweet_spot", "metric": "best_worst"}, "generation": {"n": 8}},
        "pairs.metric: best_worst keeps only the pair of the best and the worst response, which sweet_spot rarely",
    ),
    (
        {"pairs": {"pairing": "sweet_spot", "top_n": 9}, "generation": {"n": 8}, "bandit": {"budget": 4}},
        "pairs.top_n: 9, but a round has at most 8 pairs",
    ),
    (
        {"pairs": {"replay": {"share": 0.5}, "offline_share": 0.5}},
        "pairs.offline_share: 0.5 and pairs.replay.share 0.5 leave nothing for a round's own pairs",
    ),
    ({"pairs": {"replay": {"rounds": 2}}}, "pairs.replay.rounds: 2, but pairs.replay.share 0 replays nothing"),
    ({"pairs": {"replay": {"share": 1}}}, "pairs.replay.share: 1, expected below 1"),
    (
        {"pairs": {"offline_share": 0.5}, "generation": {"sampler": "dataset"}},
        "pairs.offline_share: with sampler dataset a round's own pairs are the data set's",
    ),
    (
        {"pairs": {"offline_share": 0.5}, "train": {"loss": "rev_kl"}},
        "pairs.offline_share: loss rev_kl needs rewards of the feedback, which pairs of the data set lack",
    ),
    (
        {
            "pairs": {"offline_share": 0.5},
            "train": {"loss": "xpo"},
            "generation": {"sampler": "policy_reference", "n": 4},
        },
        "pairs.offline_share: loss xpo needs a response of the reference",
    ),
    ({"train": {"loss": "rdpo", "label_smoothing": 0.5}}, "train.label_smoothing: 0.5, expected below 0.5"),
    ({"train": {"micro_batch_size": 8}}, "train.micro_batch_size: 8 is larger than train.batch_size, 4"),
    ({"feedback": {"kind": "judge"}}, "kind judge needs either .*feedback.model or, for a server"),
    (
        {"feedback": {"kind": "judge", "judge": {"base_url": "http://localhost/v1"}}},
        "feedback.judge.model: missing; set it to the server's name for its model",
    ),
    (
        {"feedback": {"kind": "judge", "model": "x", "judge": {"base_url": "http://localhost/v1", "model": "y"}}},
        "kind judge needs either",
    ),
    (
        {"feedback": SERVER | {"judge": SERVER["judge"] | {"request": {"extra": {"stream": True}}}}},
        "feedback.judge.request: sets stream, which must not be changed",
    ),
    (
        {"feedback": SERVER | {"judge": SERVER["judge"] | {"request": {"rename": {"max_tokens": "n"}}}}},
        "feedback.judge.request: sets n, which",
    ),
    (
        {
            "feedback": SERVER
            | {"judge": SERVER["judge"] | {"request": {"drop": ["temperature"], "rename": {"temperature": "t"}}}}
        },
        "feedback.judge.request: temperature is both dropped and renamed",
    ),
    (
        {"feedback": {"kind": "reward_model", "model": "trained:mine"}},
        "feedback.model: trained:mine, but reward_models has no such name; known: none",
    ),
    (
        {"feedback": SERVER | {"length_penalty": 0.1}},
        "feedback.length_penalty: kind judge gives no rewards, so nothing can be subtracted from them; set it to null",
    ),
    (
        {"feedback": SERVER | {"noise": {"kind": "bradley_terry"}}},
        "feedback.noise.kind: noise is added to rewards, but a judge gives none; set it to null",
    ),
    ({"feedback": {"kind": "sum"}}, "feedback.sources: empty, but kind sum needs functions or reward models; list"),
    (
        {"feedback": {"kind": "ensemble", "sources": [FUNCTION]}},
        "feedback.sources: one member, but an ensemble needs at least two",
    ),
    (
        {"feedback": {"kind": "ensemble", "sources": [FUNCTION, FUNCTION | {"name": "b", "weight": 0.5}]}},
        "feedback.sources: an ensemble is the mean of its members; remove weight",
    ),
    (
        {"feedback": {"kind": "sum", "sources": [FUNCTION, FUNCTION]}},
        "feedback.sources: several sources have the name afinn, but each needs its own column; set name",
    ),
    (
        {"feedback": {"kind": "sum", "sources": [FUNCTION | {"name": "true"}]}},
        "feedback.sources: true is the name of another column",
    ),
    (
        {"feedback": {"kind": "sum", "sources": [SERVER | {"judge": {}}]}},
        "feedback.sources.0.judge: unknown key",
    ),
    (
        {"feedback": {"kind": "sum", "sources": [FUNCTION, {"kind": "judge", "model": "a/b"}]}},
        "feedback.sources: kind judge is not one of function, reward_model, which give one reward per response",
    ),
    ({"feedback": {"kind": "sum", "sources": [{"weight": 1}]}}, "feedback.sources: kind function needs function, as"),
    (
        {"feedback": {"kind": "sum", "sources": [{"kind": "reward_model"}]}},
        "feedback.sources: kind reward_model needs model, as owner/name",
    ),
    (
        {"feedback": {"kind": "sum", "sources": [{"kind": "reward_model", "model": "trained:mine"}]}},
        "feedback.sources: model trained:mine, but reward_models has no such name; known: none",
    ),
    (
        {"feedback": {"kind": "sum", "sources": [{"function": "absent_rewards:helpful"}]}},
        "feedback.function: no module absent_rewards",
    ),
]


@pytest.mark.parametrize(("differences", "message"), IMPOSSIBLE)
def test_impossible_method_is_refused(differences, message):
    with pytest.raises(InputError, match=message):
        checked(merge(VALID, {"methods": {"uniform": differences}}))


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"train": {"parameters": "full"}}, "nf4 keeps base weights fixed, but train.parameters is full"),
        ({"train": {"sharding": "fsdp2"}}, "entire model in every process, but train.sharding is fsdp2"),
        ({"generation": {"engine": "vllm"}}, "not supported by generation.engine vllm"),
    ],
)
def test_quantized_base_weights_need_adapters_and_transformers(differences, message):
    config = merge(VALID, {"policy": {"quantization": "nf4"}})
    checked(config)
    with pytest.raises(InputError, match=f"policy.quantization: .*{message}"):
        checked(merge(config, differences))
    checked(merge(VALID, differences))


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({}, None),
        ({"methods": {"uniform": {"train": {"beta": 0.2}}}}, None),
        ({"sft": {"enabled": True}}, "policy.start: .*, but sft.enabled trains another base model; .*"),
        (
            {"methods": {"uniform": {"train": {"lora": {"r": 8}}}}},
            "all methods continue .*policy.pt, but dota and uniform have different train.parameters or train.lora",
        ),
        ({"methods": {"uniform": {"train": {"parameters": "full"}}}}, "different train.parameters or train.lora"),
        ({"policy": {"start": "results/other/policy.p"}}, "policy.p: no such file, .*; did you mean results/other/pol"),
        ({"policy": {"start": "results/other"}}, "results/other: a folder, expected a policy.pt; for a model folder"),
        ({"policy": {"start": "results/tiny/policy.pt"}}, "a result of this experiment; give the experiment that cont"),
    ],
)
def test_start_must_be_a_policy_that_all_methods_can_continue(differences, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("other", "tiny"):
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "policy.pt").touch()
    config = merge(merge(VALID, {"policy": {"start": "results/other/policy.pt"}}), differences)
    if message is None:
        checked(config)
    else:
        with pytest.raises(InputError, match=message):
            checked(config)


def test_noise_in_evaluation_is_refused():
    noise = {"noise": {"kind": "bradley_terry"}}
    with pytest.raises(InputError, match="evaluation.evaluator.noise.kind: evaluation has no noise; set it to null"):
        checked(merge(VALID, {"evaluation": {"evaluator": noise}}))
    checked(merge(VALID, {"feedback": noise}))


def test_table_judge_answers_needs_a_judge():
    tables = {"tables": ["judge_answers"]}
    with pytest.raises(InputError, match="tables: judge_answers needs a judge as feedback or evaluator"):
        checked(merge(VALID, tables))
    checked(merge(VALID, tables | {"evaluation": {"evaluator": SERVER}}))


def test_format_without_responses_is_refused():
    for differences in (
        {"methods": {"uniform": {"generation": {"sampler": "dataset"}, "feedback": {"kind": "dataset"}}}},
        {"sft": {"enabled": True}},
    ):
        with pytest.raises(InputError, match="prompts.format ultrachat has no"):
            checked(merge(VALID, differences | {"prompts": {"format": "ultrachat"}}))


PACKAGED = {"source": "packaged"}
SEVERAL = {"source": None, "take": None}


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"prompts": {"sources": [PACKAGED]}}, "prompts.source: the entries of prompts.sources.*one of the two"),
        (
            {"prompts": SEVERAL | {"split": "test", "sources": [PACKAGED]}},
            "prompts.split: the entries of prompts.sources have their own",
        ),
        (
            {"prompts": SEVERAL | {"sources": [PACKAGED, {"split": "test"}]}},
            "prompts.sources: an entry has no source",
        ),
        ({"prompts": SEVERAL | {"sources": [{"source": "a.txt"}]}}, "prompts.sources: a.txt: expected packaged"),
        (
            {"prompts": {"source": None, "take": 60, "sources": [PACKAGED | {"share": 0.5}, PACKAGED]}},
            "prompts.sources: 1 of 2 have a share of take, with sum 0.5; give all of them a share, with sum 1, or none",
        ),
        (
            {"prompts": {"source": None, "take": 60, "sources": [PACKAGED | {"share": 0.5}] * 3}},
            "prompts.sources: 3 of 3 have a share of take, with sum 1.5",
        ),
        (
            {"prompts": SEVERAL | {"sources": [PACKAGED | {"share": 1.5}]}},
            r"prompts.sources.0.share: 1.5, expected 1 or",
        ),
        (
            {"prompts": SEVERAL | {"sources": [{"sorce": "a"}]}},
            "prompts.sources.0.sorce: unknown key; did you mean source",
        ),
        ({"prompts": SEVERAL | {"sources": []}}, "prompts.sources: empty, expected 1 or more"),
        (
            {"prompts": SEVERAL | {"sources": [PACKAGED | {"format": "mt_bench"}]}, "sft": {"enabled": True}},
            "sft.enabled: prompts.format mt_bench has no chosen responses",
        ),
        ({"evaluation": {"prompts": {"take": 50}}}, "evaluation.prompts.source: missing, but other keys are set"),
        ({"evaluation": {"prompts": {"source": "a.csv"}}}, "evaluation.prompts.source: a.csv: no such file"),
        (
            {"evaluation": {"prompts": PACKAGED | {"format": "mt_bench"}, "opponents": ["chosen"]}},
            "evaluation.opponents: prompts.format mt_bench has no chosen responses",
        ),
        (
            {
                "evaluation": {
                    "prompts": PACKAGED | {"format": "alpaca", "columns": {"prompt": "x"}, "sources": [PACKAGED]}
                }
            },
            "evaluation.prompts.source: the entries of evaluation.prompts.sources have their own",
        ),
    ],
)
def test_conflicting_sources_are_refused(differences, message):
    with pytest.raises(InputError, match=message):
        checked(merge(VALID, differences))


def test_first_metric_needs_a_second_round():
    config = merge(VALID, {"rounds": 1, "pairs": {"first_metric": "random"}})
    with pytest.raises(InputError, match="pairs.first_metric: with rounds 1 pairs.metric is never used; raise rounds"):
        checked(config)
    assert checked(config | {"rounds": 2})["pairs"]["first_metric"] == "random"


def test_replay_needs_an_earlier_round():
    config = merge(VALID, {"rounds": 1, "pairs": {"replay": {"share": 0.5}}})
    with pytest.raises(InputError, match="pairs.replay.share: with rounds 1 there is no earlier round; raise rounds"):
        checked(config)
    assert checked(config | {"rounds": 2})["pairs"]["replay"] == {"rounds": 1, "share": 0.5}


def test_offline_pairs_need_a_format_with_responses():
    config = merge(VALID, {"prompts": {"format": "mt_bench"}, "pairs": {"offline_share": 0.5}})
    with pytest.raises(InputError, match="pairs.offline_share: prompts.format mt_bench has no responses; set it to 0"):
        checked(config)


def test_additional_pairs_make_rounds_longer():
    """8 own pairs take 2 steps, or 4 with half of all pairs from the data set. Round 1 has no replayed pairs."""
    steps = {"evaluation": {"by_checkpoint": {"steps": [4]}}}
    for pairs, message in (
        ({"offline_share": 0.5}, None),
        ({"offline_share": 0.25}, "a round has at most 3 optimizer steps"),
        ({"replay": {"share": 0.5}}, "a round has at most 2 optimizer steps"),
    ):
        config = merge(VALID, steps | {"pairs": pairs})
        if message is None:
            checked(config)
        else:
            with pytest.raises(InputError, match=message):
                checked(config)
    risk = {"train": {"beta_rule": "risk", "carry_beta": False, "beta_risk": {"warmup": 3}}}
    checked(merge(VALID, risk | {"pairs": {"replay": {"share": 0.5}}}))


def test_several_sources_and_an_evaluation_set_are_accepted():
    """With a separate evaluation set no prompt is held out, so all 52 are left for training."""
    sources = [PACKAGED | {"share": 0.5}, PACKAGED | {"format": "alpaca", "share": 0.5}]
    own = {"source": None, "sources": [PACKAGED, PACKAGED | {"format": "alpaca_eval"}], "take": 20}
    prompts = {"source": None, "take": 52, "sources": sources}
    config = merge(VALID, {"prompts": prompts, "bandit": {"budget": 13}})
    with pytest.raises(InputError, match="prompts.take leaves 42 for training"):
        checked(config)
    assert checked(merge(config, {"evaluation": {"prompts": own}}))["evaluation"]["prompts"]["take"] == 20


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hub:owner/name", None),
        ("hub:owner/name@main", None),
        ("hub:owner/name@5e6c1f0", None),
        ("hub:name", "prompts.source: hub:name: expected hub:owner/name"),
        ("hub:owner/name@", "expected hub:owner/name"),
        ("my_data.py:rows", None),
        ("my_data:rows", None),
        ("my_data.py:row", "prompts.source: my_data.py has no row; did you mean rows?"),
        ("other.py:rows", "prompts.source: other.py: no such file"),
        ("saved", None),
        ("empty", "prompts.source: empty: a folder without dataset_info.json or dataset_dict.json, expected packaged"),
        ("rows.csv", None),
        ("row.csv", "prompts.source: row.csv: no such file; did you mean rows.csv?"),
        ("rows.xlsx", "prompts.source: rows.xlsx: expected packaged, a .jsonl, .json, .csv"),
    ],
)
def test_sources_are_checked_before_any_job(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_data.py").write_text("def rows():\n    yield {}\n")
    for file in ("saved/dataset_info.json", "empty/other.json", "rows.csv"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    config = merge(VALID, {"prompts": {"source": source}})
    if message is None:
        checked(config)
    else:
        with pytest.raises(InputError, match=message):
            checked(config)


def test_dataset_as_evaluator_is_refused():
    with pytest.raises(InputError, match="evaluation.evaluator: the data set has no preference between new samples"):
        checked(merge(VALID, {"evaluation": {"evaluator": {"kind": "dataset"}}}))


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"policy": {"model": None}}, "policy.model: missing"),
        ({"prompts": {"source": None}}, "prompts.source: missing.*packaged"),
        ({"reward_models": {"mine": {"base": "a/b"}}}, "reward_models.mine.source: missing"),
        ({"evaluation": {"evaluator": {"function": None}}}, "kind function needs evaluation.evaluator.function"),
    ],
)
def test_settings_without_default_are_required(differences, message):
    with pytest.raises(InputError, match=message):
        checked(merge(VALID, differences))


AFINN = {"evaluator": {"function": "prefloop.feedback.lexicons:afinn"}}


@pytest.mark.parametrize(("samples", "temperature", "lines"), [(1, 0, 0), (2, 0.7, 0), (2, 0, 1)])
def test_several_samples_at_temperature_0_warn(samples, temperature, lines):
    evaluation = {"evaluation": {"samples": samples, "temperature": temperature}}
    found = doubts(checked(merge(VALID, evaluation)))
    assert sum(line.startswith("evaluation.samples: 2, but at evaluation.temperature 0") for line in found) == lines


@pytest.mark.parametrize(
    ("differences", "lines"),
    [
        ({}, 0),
        ({"feedback": {"kind": "reward_model", "model": "my/reward-model"}}, 1),
        ({"methods": {"dota": {"feedback": {"kind": "reward_model", "model": "my/reward-model"}}}}, 1),
        ({"compare": ["dota"], "methods": {"uniform": {"feedback": {"kind": "reward_model", "model": "my/rm"}}}}, 0),
        (
            {
                "feedback": {"kind": "reward_model", "model": "my/reward-model"},
                "evaluation": {"evaluator": {"kind": "reward_model", "model": "another/one"}},
            },
            0,
        ),
        ({"methods": {"dota": {"generation": {"sampler": "dataset"}, "feedback": {"kind": "dataset"}}}}, 0),
    ],
)
def test_lexicon_as_evaluator_of_another_kind_of_reward_warns(differences, lines):
    found = doubts(checked(merge(merge(VALID, {"evaluation": AFINN}), differences)))
    assert len(found) == lines
    assert all(line.startswith("evaluation.evaluator: ") for line in found)
