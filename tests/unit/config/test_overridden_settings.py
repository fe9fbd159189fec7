"""A setting without effect is named in a warning."""

import pytest

from conftest import TINY, merge
from prefloop.config.consistency import doubts
from prefloop.config.overridden_settings import equal_variants, overridden_settings
from prefloop.config.validation import checked

VALID = merge(TINY, {"policy": {"model": "some/model"}})
BOTH = ("dota", "uniform")
TRANSFORMERS = {"generation": {"engine": "transformers"}}


@pytest.mark.parametrize(
    ("differences", "lines"),
    [
        ({}, 0),
        ({"pairs": {"metric": "reward_gap"}}, 1),  # dota and uniform have metrics of their own
        ({"pairs": {"metric": "reward_gap"}, "methods": {"dota": {"pairs": {"metric": "reward_gap"}}}}, 0),
        ({"pairs": {"metric": "reward_gap"}, "compare": ["dota", "plain"], "methods": {"plain": {}}}, 0),
        ({"train": {"lora": {"r": 8}}, "sweep": {"train.lora.r": [2, 4]}}, 1),
        ({"train": {"lora": {"r": 8}}, "sweep": {"train.lora.r": [2, 8]}}, 0),
        ({"bandit": {"alpha": 0.3}}, 0),
        (  # the evaluation of all methods reads it
            {
                "generation": {"engine": "vllm"},
                "methods": {m: {"generation": {"engine": "transformers"}} for m in BOTH},
            },
            0,
        ),
    ],
)
def test_section_setting_that_every_method_overrides_warns(differences, lines):
    preset = {"dota": {"pairs": {"metric": "pfp"}}, "uniform": {"pairs": {"metric": "random"}}}
    config = checked(merge(merge(VALID, {"methods": preset, "compare": [*BOTH]}), differences))
    found = list(overridden_settings(config))
    assert len(found) == lines and set(found) <= set(doubts(config))
    for line in found:
        setting, remedy = (
            ("train.lora.r: 8", "add it to sweep.train.lora.r")
            if "sweep" in differences
            else ("pairs.metric: 'reward_gap'", "set methods.dota.pairs.metric")
        )
        assert line.startswith(f"{setting} has no effect, because every compared method sets its own (")
        assert line.endswith(f"; {remedy}, or compare another method")


def test_variants_that_do_not_use_the_swept_setting_warn():
    """rmax belongs to losses with a weight; DPO ignores it."""
    config = checked(merge(VALID, {"compare": ["dota"], "sweep": {"train.rmax": [1.0, 2.0], "train.beta": [0.1, 0.2]}}))
    assert list(equal_variants(config)) == [
        f"methods.dota_train_beta_{beta}_train_rmax_2p0: the same method as dota_train_beta_{beta}_train_rmax_1p0, "
        "because it does not use train.rmax or train.beta"
        for beta in ("0p1", "0p2")
    ]
    assert not list(equal_variants(checked(merge(VALID, {"sweep": {"train.beta": [0.1, 0.2]}}))))
