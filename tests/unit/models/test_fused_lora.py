"""The fused adapter layer matches peft's layer, and falls back to it in unsupported cases."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear
from torch import nn

from prefloop.models._compat import register_lora_layer
from prefloop.models.fused_lora import LoraLinear, LoraProduct
from prefloop.models.loading import add_adapter, load_base
from prefloop.models.options import Lora

ROWS, INNER, OUTER, RANK = 5, 6, 4, 2


class Network(nn.Module):
    """A network with one layer that gets an adapter."""

    def __init__(self, bias: bool = True):
        super().__init__()
        self.layer = nn.Linear(INNER, OUTER, bias=bias)

    def forward(self, x):
        return self.layer(x)


def pair(
    bias: bool = True, dropout: float = 0.0, dtype: torch.dtype = torch.float32, **options: bool
) -> tuple[LoraLinear, Linear]:
    """Return our layer and peft's with the same weights; unlike in a new adapter, B is not 0."""
    layers = []
    for ours in (True, False):
        torch.manual_seed(0)
        shape = LoraConfig(r=RANK, lora_alpha=3 * RANK, lora_dropout=dropout, target_modules=["layer"], **options)
        if ours:
            register_lora_layer(shape, LoraLinear)
        layer = get_peft_model(Network(bias).to(dtype), shape).base_model.model.layer
        assert type(layer) is (LoraLinear if ours else Linear)
        nn.init.normal_(layer.lora_B["default"].weight)
        layers.append(layer)
    return tuple(layers)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """A list with one entry per call of peft's forward pass."""
    found, own = [], Linear.forward

    def counted(self, *args, **kwargs):
        found.append(1)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(Linear, "forward", counted)
    return found


def outcome(layer, x: torch.Tensor) -> list[torch.Tensor]:
    """Return a layer's output, and the gradients of a sum of cosines with respect to input and adapter."""
    x = x.clone().requires_grad_()
    found = layer(x)
    trained = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    assert len(trained) == 2
    return [found, *torch.autograd.grad(found.float().cos().sum(), [x, *trained])]


@pytest.mark.parametrize("shape", [(ROWS, INNER), (2, ROWS, INNER), (INNER,)])
@pytest.mark.parametrize("bias", [True, False])
def test_fused_layer_matches_peft(bias, shape, calls):
    ours, theirs = pair(bias)
    x = torch.randn(shape)
    found = outcome(ours, x)
    assert not calls
    for one, other in zip(found, outcome(theirs, x), strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-5)


def test_bfloat16_matches_peft_up_to_rounding(calls):
    """As in training, frozen weights are bfloat16, adapters and gradients are float32, and autocast is used."""
    ours, theirs = pair(dtype=torch.bfloat16)
    x = torch.randn((2, ROWS, INNER), dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        found = outcome(ours, x)
        assert not calls
        expected = outcome(theirs, x)
    assert [one.dtype for one in found] == [one.dtype for one in expected] == [x.dtype, x.dtype, *[torch.float32] * 2]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one.float(), other.float(), atol=0.05, rtol=0.05)


def test_gradients_match_finite_differences():
    torch.manual_seed(0)
    x, a, b = (
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((ROWS, INNER), (RANK, INNER), (OUTER, RANK))
    )
    weight, bias = torch.randn(OUTER, INNER, dtype=torch.float64), torch.randn(OUTER, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x, a, b: LoraProduct.apply(x, weight, bias, a, b, 0.7), (x, a, b))


def test_unsupported_cases_use_peft(calls):
    """Covers no or two active adapters, dropout, DoRA, merged adapters, a trained base layer, and another dtype."""
    x = torch.randn(ROWS, INNER)

    def same(change, dtype: torch.dtype = torch.float32, dropout: float = 0.0, **options: bool) -> None:
        calls.clear()
        found = []
        for layer in pair(dtype=dtype, dropout=dropout, **options):
            torch.manual_seed(1)
            change(layer)
            found.append(layer(x.to(dtype)))
        assert torch.equal(*found)
        assert len(calls) == 2

    def another(layer):
        layer.update_layer("more", RANK, lora_alpha=1, config=LoraConfig(init_lora_weights=False))
        layer.set_adapter(["default", "more"])

    same(lambda layer: layer.enable_adapters(False))
    same(another)
    same(lambda layer: layer.train(), dropout=0.5)
    same(lambda layer: layer.merge())
    same(lambda layer: layer.base_layer.requires_grad_())
    same(lambda layer: None, dtype=torch.bfloat16)
    same(lambda layer: nn.init.normal_(layer.lora_magnitude_vector["default"].weight), use_dora=True)


def test_rank_stabilized_adapters_are_fused(calls):
    ours, plain = pair(use_rslora=True)
    x = torch.randn(ROWS, INNER)
    found, expected = outcome(ours, x), outcome(plain, x)
    assert ours.scaling["default"] == pytest.approx(3 * RANK / RANK**0.5)
    assert len(calls) == 1, "only peft's own layer"
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, expected, strict=True))


def test_disabled_dropout_stays_fused(calls):
    ours, _ = pair(dropout=0.5)
    ours.eval()(torch.randn(ROWS, INNER))
    assert not calls


def test_policies_use_fused_layers_and_save_plain_ones(manifests, tmp_path):
    """Every nn.Linear except the head is fused, and plain peft loads the saved folder."""
    from peft import PeftModel

    model = add_adapter(load_base(manifests["llama"], torch.float32)[0], Lora(r=RANK))
    adapted = [module for module in model.modules() if isinstance(module, Linear)]
    assert len(adapted) == 7 * model.config.num_hidden_layers
    assert {type(module) for module in adapted} == {LoraLinear}
    for module in adapted:
        nn.init.normal_(module.lora_B["default"].weight)
    model.save_pretrained(tmp_path)
    plain = PeftModel.from_pretrained(load_base(manifests["llama"], torch.float32)[0], tmp_path)
    assert LoraLinear not in {type(module) for module in plain.modules()}
    ids = torch.tensor([[5, 9, 33, 1]])
    assert torch.allclose(model(ids).logits, plain(ids).logits, atol=1e-5)
    assert torch.allclose(copy.deepcopy(model).merge_and_unload()(ids).logits, plain(ids).logits, atol=1e-5)
