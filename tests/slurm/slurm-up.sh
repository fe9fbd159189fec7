#!/usr/bin/env bash
# Start SLURM for tests with two nodes on one machine: munged, slurmctld and two slurmd from Debian's packages, without
# systemd and without installing them. Packages are unpacked in STATE_DIR, and its bin/ has clients that find their
# configuration and libraries. Only processes with bin/ on PATH use this SLURM. It needs root and a Debian mirror.
#   slurm-up.sh STATE_DIR; PATH=STATE_DIR/bin:$PATH sinfo; slurm-down.sh STATE_DIR
# The CPUs, GPUs and memory are fake. SLURM uses them for scheduling and enforces no limits. The exit status is 77 if the
# packages cannot be fetched.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
state=$(realpath -m "${1:?usage: $0 STATE_DIR}")
host=$(hostname -s)
cpus=32 # of each node
gpus=4
mem=256000 # MB
mkdir -p "$state"/{bin,ctld,log,debs/partial,lists/partial}

# --- packages, with a separate package list so that the machine's does not change ---
apt=(apt-get -qq -o Dir::State::lists="$state/lists" -o Dir::Cache="$state" -o Dir::Cache::archives="$state/debs" -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
{ "${apt[@]}" update && "${apt[@]}" install --download-only --no-install-recommends --yes slurm-wlm munge; } || exit 77
for package in "$state"/debs/*.deb; do dpkg -x "$package" "$state/root"; done
# Set up Debian's alternatives, as a daemon with another name would run as a client.
for daemon in slurmctld slurmd slurmstepd; do ln -sf "$daemon-wlm" "$state/root/usr/sbin/$daemon"; done

libraries=$(dirname "$state"/root/usr/lib/*/libmunge.so.2)
plugins=$libraries/slurm-wlm
for client in sbatch srun scancel scontrol sinfo squeue sacct sacctmgr sshare; do
    cat > "$state/bin/$client" <<END
#!/bin/sh
SLURM_CONF=$state/slurm.conf LD_LIBRARY_PATH=$libraries:$plugins\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH} exec $state/root/usr/bin/$client "\$@"
END
    chmod +x "$state/bin/$client"
done
export SLURM_CONF=$state/slurm.conf LD_LIBRARY_PATH=$libraries:$plugins

# --- configuration ---
fill=(-e "s|@HOST@|$host|g" -e "s|@STATE@|$state|g" -e "s|@PLUGINS@|$plugins|g")
fill+=(-e "s|@CPUS@|$cpus|g" -e "s|@MEM@|$mem|g" -e "s|@GPUS@|$gpus|g" -e "s|@LASTGPU@|$((gpus - 1))|g")
port=$((20000 + $$ % 20000)) # several of these clusters can run at once
fill+=(-e "s|@PORT@|$port|g" -e "s|@PORT1@|$((port + 1))|g" -e "s|@PORT2@|$((port + 2))|g")
sed "${fill[@]}" "$here/slurm.conf.in" > "$state/slurm.conf"
sed "${fill[@]}" "$here/gres.conf.in" > "$state/gres.conf"
# The file only stops slurmd from searching elsewhere; no cgroup plugin is used.
echo "CgroupPlugin=cgroup/v1" > "$state/cgroup.conf"
# slurmd requires character devices for its GPUs, but never opens them.
for i in $(seq 0 $((gpus - 1))); do [ -e "$state/gpu$i" ] || mknod "$state/gpu$i" c 1 3; done

# --- daemons ---
"$state/root/usr/sbin/mungekey" --create --keyfile="$state/munge.key"
# --force: other users may have no access to a test's folder, but only root's programs use the socket.
"$state/root/usr/sbin/munged" --force --key-file="$state/munge.key" --socket="$state/munge.socket" --num-threads=2 \
    --pid-file="$state/munged.pid" --log-file="$state/log/munged.log" --seed-file="$state/munge.seed"
"$state/root/usr/sbin/slurmctld" -c -i -L "$state/log/slurmctld.log"
for node in "$host" "$host-b"; do
    mkdir -p "$state/spool-$node"
    "$state/root/usr/sbin/slurmd" -N "$node" -d "$state/root/usr/sbin/slurmstepd" -L "$state/log/slurmd-$node.log"
done
for _ in $(seq 60); do
    [ "$("$state/bin/sinfo" -h -N -o %T 2> /dev/null)" = $'idle\nidle' ] && exec "$state/bin/sinfo" -N -o '%N %T %c %m %G'
    sleep .5
done
tail "$state"/log/*.log >&2
exit 1
