"""A run can start from another run's policy only if its settings can continue the training."""

import shutil

import pytest
import torch

from prefloop.core.errors import InputError
from prefloop.core.files import read_json
from prefloop.models.fetch import fetch, write_model
from prefloop.models.loading import load_base, load_trainable
from prefloop.models.options import Lora
from prefloop.models.policies import read_policy
from prefloop.models.quantization import QUANTIZED, quantize
from prefloop.models.start_policies import check_start


def check(manifest, policy, parameters: str = "lora", lora: Lora = Lora(r=4), **changes) -> None:  # noqa: B008
    check_start(read_policy(policy) | changes, policy, manifest, parameters, lora)


def test_policy_with_the_same_settings_passes(manifests, trained):
    check(manifests["llama"], trained("lora"), lora=Lora(r=4))
    check(manifests["llama"], trained("full"), "full", lora=Lora(r=8))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (Lora(r=8), r"its adapters have r 4, and train.lora.r is 8; set train.lora to match"),
        (Lora(r=4, alpha=8.0), r"alpha 32.0, and train.lora.alpha is 8.0"),
        (Lora(r=4, dropout=0.1), r"dropout 0.0, and train.lora.dropout is 0.1"),
        (
            Lora(r=4, target_modules=("q_proj",)),
            r"target_modules \[\], and train.lora.target_modules is \['q_proj'\]",
        ),
        (Lora(r=4, rslora=True), "rslora False, and train.lora.rslora is True"),
        (Lora(r=2, dora=True), "r 4, and train.lora.r is 2, dora False, and train.lora.dora is True"),
    ],
)
def test_other_adapters_are_refused(manifests, trained, lora, message):
    with pytest.raises(InputError, match=message):
        check(manifests["llama"], trained("lora"), lora=lora)


def test_training_refuses_adapters_of_another_shape(manifests, trained):
    """Training would keep the shape of the adapters and note that of the config."""
    with pytest.raises(InputError, match=r"its adapters have alpha 32.0, and train.lora.alpha is 8.0"):
        load_trainable(manifests["llama"], trained("lora"), "lora", Lora(r=4, alpha=8.0), torch.float32)


def test_order_of_target_modules_does_not_matter(manifests, trained):
    content = read_policy(trained("lora"))
    shape = content["adapter"] | {"target_modules": ["v_proj", "q_proj"]}
    check(manifests["llama"], trained("lora"), lora=Lora(r=4, target_modules=("q_proj", "v_proj")), adapter=shape)


@pytest.mark.parametrize(
    ("found", "wanted", "message"),
    [
        ("lora", "full", "it has adapters, and train.parameters is full; set it to lora"),
        ("full", "lora", "all its parameters were trained, and train.parameters is lora; set it to full"),
    ],
)
def test_other_parameters_are_refused(manifests, trained, found, wanted, message):
    with pytest.raises(InputError, match=message):
        check(manifests["llama"], trained(found), wanted)


def test_other_base_model_is_refused(manifests, trained):
    found, wanted = read_json(manifests["llama"])["sha256"][:12], read_json(manifests["qwen"])["sha256"][:12]
    with pytest.raises(InputError, match=f"trained on base model {found}, and policy.model qwen is {wanted}; name the"):
        check(manifests["qwen"], trained("lora"))


def test_other_quantization_is_refused(manifests, trained, monkeypatch):
    monkeypatch.setattr("prefloop.models.quantization.QUANTIZED", QUANTIZED)
    monkeypatch.setitem(QUANTIZED, manifests["llama"].resolve(), "nf4")
    with pytest.raises(
        InputError, match="in full precision, which are loaded in nf4; .* set policy.quantization to match"
    ):
        check(manifests["llama"], trained("lora"))
    quantize(manifests["llama"], "nf4")
    check(manifests["llama"], trained("lora"), quantization="nf4")


def test_fetched_copy_of_a_fine_tuned_folder_is_the_same_base_model(manifests, tmp_path):
    """To continue a policy of a run with sft, policy.model is that run's folder sft/model."""
    tuned = tmp_path / "sft/model/manifest.json"
    write_model(*load_base(manifests["llama"], torch.float32), tuned, manifests["llama"], "fine-tuned")
    fetch(str(tuned.parent), tmp_path / "fetched")
    assert read_json(tmp_path / "fetched/manifest.json")["sha256"] == read_json(tuned)["sha256"]
    shutil.copytree(tuned.parent, tmp_path / "copied")
    fetch(str(tmp_path / "copied"), tmp_path / "fetched again")
    assert read_json(tmp_path / "fetched again/manifest.json")["sha256"] == read_json(tuned)["sha256"]
