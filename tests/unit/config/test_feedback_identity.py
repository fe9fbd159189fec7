"""Two feedback configurations have the same identity if and only if they give the same rewards or judgments."""

import json

import pytest

from prefloop.config.feedback_identity import feedback_identity

LOCAL_JUDGE = {
    "template": "judge.txt",
    "base_url": None,
    "model": None,
    "max_tokens": 16,
    "tie_margin": 0.0,
    "min_label_mass": 0.01,
    "concurrency": 8,
    "cache": "results/cache/judge",
}
SERVER = {"base_url": "http://localhost:8000/v1", "model": "big"}


def reward_model(source) -> str:
    return digest({"kind": "reward_model", "model": str(source)})


def judge(loaded: str | None = None, **settings) -> str:
    return digest({"kind": "judge", "model": loaded, "judge": LOCAL_JUDGE | settings})


def function(name: str) -> str:
    return digest({"kind": "function", "function": name})


def digest(feedback: dict) -> str:
    return json.loads(feedback_identity(feedback))["digest"]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A working directory with two reward models in folders of the same name, each with a judge's template."""
    for folder in ("a/rm", "b/rm"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "judge.txt").write_text("Which?")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_folders_with_the_same_name_are_different_models(project):
    assert reward_model("a/rm") != reward_model("b/rm")


def test_relative_and_absolute_paths_are_the_same_model(project):
    ways = ["a/rm", "./a/rm", "a/rm/", "b/../a/rm", project / "a/rm"]
    assert len({reward_model(way) for way in ways}) == 1


def test_module_and_path_are_the_same_function(project):
    (project / "own").mkdir()
    (project / "own/rewards.py").touch()
    names = ["own.rewards:short", "own/rewards.py:short", "./own/rewards.py:short", f"{project}/own/rewards.py:short"]
    assert len({function(name) for name in names}) == 1
    assert function("own.rewards:short") != function("own.rewards:long")


def test_moving_the_project_keeps_the_identity(project, monkeypatch):
    before = reward_model("a/rm")
    moved = project.rename(project.with_name("moved"))
    monkeypatch.chdir(moved)
    assert reward_model("a/rm") == before


def test_hub_ids_and_packages_are_compared_as_written(project):
    assert reward_model("a/other") != reward_model("b/other")
    assert reward_model("pypi:x==1/y") != reward_model("pypi:x==2/y")
    assert reward_model("pypi:x==1/y#sha256=abc") == reward_model("pypi:x==1/y")


@pytest.mark.parametrize(
    "settings",
    [
        {"template": "a/rm/judge.txt"},
        {"tie_margin": 0.1},
        {"min_label_mass": 0.5},
        {"dtype": "bfloat16"},
        {"loaded": "b"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_settings_that_change_a_judges_output_change_the_identity(project, settings):
    assert judge(**{"loaded": "a"} | settings) != judge("a")


@pytest.mark.parametrize("settings", [{"concurrency": 1}, {"cache": "elsewhere"}, {"max_tokens": 99}])
def test_settings_without_effect_keep_the_identity(settings):
    assert judge("a", **settings) == judge("a")


def test_servers_differ_by_address_model_and_answer_length():
    same = judge(**SERVER)
    assert judge(**SERVER, tie_margin=0.2) == same, "the tie margin has no effect on a server's answers"
    for settings in ({"base_url": "http://other/v1"}, {"model": "small"}, {"max_tokens": 1}):
        assert judge(**SERVER | settings) != same
    options = {"drop": [], "rename": {}, "extra": {}}
    assert judge(**SERVER, request=options) == same
    assert judge(**SERVER, request=options | {"extra": {"reasoning_effort": "low"}}) != same


def test_settings_of_the_input_change_the_identity():
    """Default values keep the digest of configs without these settings."""
    usual = {"kind": "function", "function": "a:b"}
    same = {"system_prompt": None, "chat_template_kwargs": {}, "strip_thinking": True}
    assert digest(usual | same) == digest(usual)
    for changed in (
        {"system_prompt": ""},
        {"chat_template_kwargs": {"x": 1}},
        {"strip_thinking": False},
        {"length_penalty": 0.1},
    ):
        assert digest(usual | changed) != digest(usual)


def test_sources_and_weights_change_the_identity():
    first, second = {"function": "a:b", "weight": 0.5}, {"kind": "reward_model", "model": "c/d"}

    def of(kind: str, *sources: dict) -> str:
        return digest({"kind": kind, "sources": list(sources)})

    assert of("sum", first, second) == of("sum", second, first | {"name": "other"}), "names and order do not count"
    others = [of("ensemble", first, second), of("sum", first), of("sum", first | {"weight": 1.0}, second)]
    others += [of("sum", first, second | {"output": "score"}), function("a:b")]
    assert len({of("sum", first, second), *others}) == 6


def test_kinds_and_functions_differ():
    names = [
        digest({"kind": kind, kind: setting})
        for kind, setting in [("function", "a:b"), ("function", "a:c"), ("program", "a:b"), ("length", None)]
    ]
    assert len({*names, reward_model("a:b")}) == 5


def test_precision_of_a_reward_model_changes_the_identity():
    """bfloat16 rounds different rewards to the same value."""
    usual = {"kind": "reward_model", "model": "owner/rm"}
    assert digest(usual | {"dtype": "float32"}) == digest(usual)
    assert digest(usual | {"dtype": "bfloat16"}) != digest(usual)
