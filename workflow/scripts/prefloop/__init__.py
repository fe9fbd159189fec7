"""What the pipeline's programs share: functions on arrays, tensors and rows; nothing here knows Snakemake or flags."""
