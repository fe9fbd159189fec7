"""Commands that start training on several processes and machines.

Snakemake imports this at every start, so it must not import anything heavy.
"""

# torchrun as a module starts the processes with the current Python, and reads no files of the user. After SIGTERM, it
# kills its processes when --shutdown-timeout (by default 30 s) has passed. They need time to save a large state, so the
# limit of SLURM should decide. After the failure of a process, torchrun always kills the others within 30 s.
TORCHRUN = "python -m torch.distributed.run --nproc-per-node {processes} --shutdown-timeout 3600"
# One launcher per node. SLURM's variables give the address at which the first one listens. A job step does not inherit
# the job's CPUs per task, and without --cpus-per-task all processes of a node would share one CPU. The port is below
# 32768, where the ports begin that Linux assigns to connections.
ON_NODES = (
    "srun --nodes {nodes} --ntasks {nodes} --ntasks-per-node 1 --cpus-per-task {threads} --cpu-bind=none"
    " --kill-on-bad-exit=1 bash -c 'exec {torchrun} --nnodes {nodes}"
    ' --node-rank "$SLURM_NODEID" --master-addr "$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    ' --master-port "$((20000 + SLURM_JOB_ID % 10000))" "$@"\' launch'
)


def launch(processes: int, nodes: int = 1, threads: int = 1) -> str:
    """The command that precedes a training program and its flags: python, or torchrun for several processes.

    On one machine, the launcher first leases the GPUs of its processes (prefloop.core.gpus). `--standalone` uses any
    free port, so that two trainings can run on one machine.

    Args:
        processes: Processes on all nodes together.
        nodes: Nodes, each with the same number of processes.
        threads: CPUs of the job on each node.

    Raises:
        ValueError: The processes cannot be divided equally among the nodes.
    """
    if processes % nodes:
        raise ValueError(f"processes: {processes} cannot be divided among {nodes} nodes; take a multiple of {nodes}")
    if processes == 1:
        return "python"
    torchrun = TORCHRUN.format(processes=processes // nodes)
    if nodes == 1:
        return f"python -m prefloop.core.gpus {torchrun} --standalone"
    return ON_NODES.format(nodes=nodes, threads=threads, torchrun=torchrun)
