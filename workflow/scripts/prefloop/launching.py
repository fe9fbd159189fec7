"""How a training starts on several processes and machines. Snakemake reads this at every start: nothing heavy here."""

# One launcher a node, told by SLURM's own variables where the first of them listens.
ON_NODES = (
    "srun --nodes {nodes} --ntasks {nodes} --ntasks-per-node 1 bash -c 'exec {accelerate}"
    ' --machine_rank "$SLURM_NODEID" --main_process_ip "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    ' --main_process_port "$((20000 + SLURM_JOB_ID % 20000))" "$@"\' launch'
)


def launch(processes: int, nodes: int = 1) -> str:
    """The words before a training program and its flags: python, or accelerate's launcher for `processes` in all.

    `--multi_gpu` starts that many on a CPU too, where accelerate's own `--cpu` starts one. Port 0 is any free one,
    so that two trainings can run on a machine.
    """
    if processes == 1:
        return "python"
    accelerate = (
        f"accelerate launch --multi_gpu --gpu_ids all --num_processes {processes} --num_machines {nodes}"
        " --mixed_precision no --dynamo_backend no"
    )
    if nodes == 1:
        return f"{accelerate} --main_process_port 0"
    return ON_NODES.format(nodes=nodes, accelerate=accelerate)
