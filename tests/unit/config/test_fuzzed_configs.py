"""Random mutations of valid configs: each invalid setting gives one line, and never a traceback.

CI runs the same examples each time. For more, random examples: FUZZ_EXAMPLES=20000 pytest tests/unit -k fuzz
"""

import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from conftest import ROOT, TINY, merge
from mutations import as_objects, fuzzing, is_short_line, mutated, torn
from prefloop.config.experiment import experiment_of
from prefloop.config.resolve import flags, of_method
from prefloop.config.validation import check_keys, checked
from prefloop.core.errors import InputError

METHODS = yaml.safe_load((ROOT / "experiments/methods.yaml").read_text())
# Settings that the configs in experiments/ do not have.
REQUEST = {"drop": ["temperature"], "rename": {"max_tokens": "max_completion_tokens"}, "extra": {"effort": "low"}}
REST = {
    "policy": {"model": "owner/name@main", "system_prompt": "Be brief.", "template_date": "2026-01-31"}
    | {"chat_template_kwargs": {"enable_thinking": False, "tools": [{"name": "search"}]}},
    "prompts": {"source": None, "merge_roles": True, "take": 40, "keep": ["answer"]}
    | {
        "sources": [{"source": "packaged", "share": 0.5}, {"source": "hub:a/b@main", "format": "hh_rlhf", "share": 0.5}]
    },
    "generation": {"stop": ["Human:"], "min_p": 0.1, "repetition_penalty": 1.1, "engine": "vllm"},
    "feedback": {"kind": "judge", "function": None, "truncation_penalty": 0.5, "system_prompt": "Be fair."}
    | {"chat_template_kwargs": {"enable_thinking": False}}
    | {"judge": {"base_url": "http://localhost:8000/v1", "model": "judge", "max_tokens": 2000, "request": REQUEST}},
    "pairs": {"drop_truncated": True, "min_gap": 0.1, "min_gap_quantile": 0.5},
    "evaluation": {"prompts": {"source": "packaged", "take": 5}, "by_checkpoint": {"steps": [1, 2]}},
    "sweep": {"train.beta": [0.1, 0.2], "pairs.metric": ["pfp", "random"]},
    "methods": {"mine": {"like": "dota", "label": "Mine"}, "dota": {"sweep": {"bandit.alpha": [0.5, 1.0]}}},
    "export": {"hub_id": "me/{method}-{seed}-{round}", "license": "mit"},
    "tracking": {"trackers": ["tensorboard"]},
}
CONFIGS = [
    merge(METHODS, merge(TINY, REST)),
    merge(METHODS, merge(TINY, {"policy": {"model": "some/model"}})),
    *(merge(METHODS, yaml.safe_load(path.read_text())) for path in sorted((ROOT / "experiments").glob("*/*.yaml"))),
]


@given(data=st.data())
@fuzzing(700)
def test_fuzzed_configs(data):
    """Each invalid setting gives one line. A config that passes can be turned into flags and an experiment."""
    config = as_objects(data.draw(mutated(data.draw(st.sampled_from(CONFIGS)))))
    assume(isinstance(config, dict))  # Snakemake accepts only mappings
    try:
        resolved = checked(config)
    except InputError as error:
        lines = str(error).split("\n")
        assert all(line.startswith("config: ") and is_short_line(line) for line in lines), lines
        return
    experiment_of(resolved, "results/x")
    for method in resolved["compare"]:
        assert flags({name: of_method(resolved, method)[name] for name in ("generation", "feedback", "pairs", "train")})


@given(data=st.data())
@fuzzing(300)
def test_fuzzed_config_files(tmp_path_factory, data):
    """Repeated keys are named. Invalid YAML is left to Snakemake, which reads the file first."""
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    text = data.draw(torn(data.draw(st.sampled_from([yaml.safe_dump(CONFIGS[0]), "a: &x {b: [1, *x]}\nc: *x\n"]))))
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    try:
        check_keys([path])
    except InputError as error:
        assert all(line.startswith("config: ") for line in str(error).split("\n"))
