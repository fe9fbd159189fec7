"""Bytes per layer and token that a training step keeps for its backward pass, for the papers' models in bfloat16.

    OMP_NUM_THREADS=2 python benchmarks/activation_bytes.py

All parameters are trained. Models have the layers of the published models, random weights and a small vocabulary. The
number is the difference between models with three layers and one layer, for two prompts of 128 tokens with two
responses of 64. On a CPU attention uses float32 and masks, so numbers can be lower on a GPU.
"""

import torch
from measuring import Conversation

from prefloop.models.precision import keep_masters
from prefloop.models.response_logprobs import prepare_scorer, response_logprobs, tokens_read

ASKED = [Conversation([5 + i] * 128, [[7] * 64, [9] * 64]) for i in range(2)]
COMMON = {"vocab_size": 100, "max_position_embeddings": 2048, "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1}


def new_model(name: str, layers: int) -> torch.nn.Module:
    """A model with the layers of a published one."""
    import transformers

    shapes = {
        "Qwen3-1.7B": {"hidden_size": 2048, "intermediate_size": 6144, "num_attention_heads": 16, "head_dim": 128},
        "Pythia-2.8B": {"hidden_size": 2560, "intermediate_size": 10240, "num_attention_heads": 32},
        "OpenLLaMA-3B": {"hidden_size": 3200, "intermediate_size": 8640, "num_attention_heads": 32},
    }
    kinds = {
        "Qwen3-1.7B": (transformers.Qwen3Config, {"num_key_value_heads": 8}),
        "Pythia-2.8B": (transformers.GPTNeoXConfig, {}),
        "OpenLLaMA-3B": (transformers.LlamaConfig, {}),
    }
    config, more = kinds[name]
    options = COMMON | shapes[name] | more | {"num_hidden_layers": layers}
    return transformers.AutoModelForCausalLM.from_config(config(**options)).eval()


def kept_bytes(model: torch.nn.Module) -> int:
    """Bytes of all tensors that autograd keeps after a forward pass, without parameters; shared memory counts once."""
    keep_masters(model, torch.bfloat16)
    scorer = prepare_scorer(model)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    prompts = [prompt for prompt, responses in ASKED for _ in responses]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        response_logprobs(scorer, prompts, [response for _, responses in ASKED for response in responses])
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def main() -> None:
    print("| model | bytes per layer and token |\n|---|---:|")
    for name in ("Qwen3-1.7B", "Pythia-2.8B", "OpenLLaMA-3B"):
        one, three = new_model(name, 1), new_model(name, 3)
        scorer = prepare_scorer(new_model(name, 1))
        tokens = tokens_read(scorer, [p for p, rs in ASKED for _ in rs], [r for _, rs in ASKED for r in rs])
        print(f"| {name} | {(kept_bytes(three) - kept_bytes(one)) / 2 / tokens:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
