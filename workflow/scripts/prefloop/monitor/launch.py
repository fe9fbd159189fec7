"""How a training starts on several processes and machines. Snakemake reads this at every start: nothing heavy here."""

# torchrun as a module: it starts the processes with the Python that runs it, and reads no file of the user's.
TORCHRUN = "python -m torch.distributed.run --nproc-per-node {processes}"
# One launcher per node; SLURM's own variables say where the first of them listens. A step does not inherit the job's
# CPUs per task, and without one CPU per thread all processes of a node would share one. Ports from 32768 on are those
# that Linux gives to any connection.
ON_NODES = (
    "srun --nodes {nodes} --ntasks {nodes} --ntasks-per-node 1 --cpus-per-task {threads} --cpu-bind=none"
    " --kill-on-bad-exit=1 bash -c 'exec {torchrun} --nnodes {nodes}"
    ' --node-rank "$SLURM_NODEID" --master-addr "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    ' --master-port "$((20000 + SLURM_JOB_ID % 10000))" "$@"\' launch'
)


def launch(processes: int, nodes: int = 1, threads: int = 1) -> str:
    """The command before a training program and its flags: python, or torchrun for several processes.

    On one machine the launcher first leases the GPUs of its processes (prefloop.core.gpus), and `--standalone` takes
    any free port, so that two trainings can run on one machine.

    Args:
        processes: Of all nodes together.
        nodes: On which they run; the same number on each.
        threads: CPUs of the job on each node.

    Raises:
        ValueError: The nodes cannot have equal numbers of processes.
    """
    if processes % nodes:
        raise ValueError(f"processes: {processes} cannot be divided among {nodes} nodes; take a multiple of {nodes}")
    if processes == 1:
        return "python"
    torchrun = TORCHRUN.format(processes=processes // nodes)
    if nodes == 1:
        return f"python -m prefloop.core.gpus {torchrun} --standalone"
    return ON_NODES.format(nodes=nodes, threads=threads, torchrun=torchrun)
