"""TRL's trainers on token ids, as its users would set them up; none of it is imported by the pipeline."""

import tempfile

SETTINGS = {"report_to": [], "bf16": False, "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True}


def tokenizer():
    """Three words: the workload comes as token ids."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, "a")))
    words.eos_token = words.pad_token = "</s>"
    return words


def with_adapter(model):
    """The model with new adapters of rank 16 as peft makes and computes them."""
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))


def dpo_trainer(model, pairs: list[dict], **settings):
    """A DPOTrainer for `pairs` of prompt_ids, chosen_ids and rejected_ids, at its defaults but for `settings`.

    It is made with a row of text, which it tokenises, and given the pairs afterwards. A reference computed beforehand
    is left to `with_reference`: TRL would find the one of the run before on the disk.
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


def reference_logps(trainer, pairs: list[dict]):
    """What `precompute_ref_log_probs` computes, in batches of the trainer's size: [pairs, 2], chosen and rejected."""
    import torch

    size, found = trainer.args.per_device_train_batch_size, []
    for start in range(0, len(pairs), size):
        batch = trainer.data_collator(pairs[start : start + size])
        batch = {name: tensor.to(trainer.model.device) for name, tensor in batch.items()}
        found.append(torch.stack(trainer.compute_ref_log_probs(trainer.model, batch), dim=1).cpu())
    return torch.cat(found)
