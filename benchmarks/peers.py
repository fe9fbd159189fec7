"""TRL's trainers on token ids, set up as its users would do; the pipeline does not import TRL."""

import tempfile
from typing import Any

SETTINGS = {"report_to": [], "bf16": False, "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True}


def tokenizer() -> Any:
    """A tokenizer with three words, because the workload has token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, "a")))
    words.eos_token = words.pad_token = "</s>"
    return words


def with_adapter(model: Any) -> Any:
    """The model with new adapters of rank 16 that peft creates and computes."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


def dpo_trainer(model: Any, pairs: list[dict], **settings: Any) -> Any:
    """A DPOTrainer for `pairs` of prompt_ids, chosen_ids and rejected_ids, with its defaults except for `settings`.

    It is created with a row of text, which it tokenizes, and gets the pairs afterwards. `reference_logps` precomputes
    the reference, because TRL would load that of the previous run from the disk.
    """
    import datasets
    from transformers import PrinterCallback
    from trl import DPOConfig, DPOTrainer

    datasets.disable_progress_bars()
    settings = SETTINGS | {"use_cpu": model.device.type == "cpu", "max_length": None} | settings
    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(output_dir=tempfile.mkdtemp(), **settings),
        train_dataset=datasets.Dataset.from_list([{"prompt": "a", "chosen": "a", "rejected": "b"}]),
        processing_class=tokenizer(),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train_dataset = datasets.Dataset.from_list(pairs)
    return trainer


def reference_logps(trainer: Any, pairs: list[dict]) -> Any:
    """The values of `precompute_ref_log_probs`, in batches of the trainer's size: [pairs, 2], chosen and rejected."""
    import torch

    size, logps = trainer.args.per_device_train_batch_size, []
    for start in range(0, len(pairs), size):
        batch = trainer.data_collator(pairs[start : start + size])
        batch = {name: tensor.to(trainer.model.device) for name, tensor in batch.items()}
        logps.append(torch.stack(trainer.compute_ref_log_probs(trainer.model, batch), dim=1).cpu())
    return torch.cat(logps)
