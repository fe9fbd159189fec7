#!/usr/bin/env bash
# A SLURM of one machine, as two nodes, from Debian's packages, for tests: munged, slurmctld and two slurmd, without systemd and without
# installing anything. Everything lies in STATE_DIR: packages are unpacked there, and bin/ holds the clients, which
# know their configuration and libraries. Only who puts bin/ on PATH sees this SLURM. Needs root and a Debian mirror.
#   slurm-up.sh STATE_DIR; PATH=STATE_DIR/bin:$PATH sinfo; slurm-down.sh STATE_DIR
# CPUs, GPUs and memory are declared, not there: SLURM schedules by them and enforces nothing. Ends with status 77 where
# the packages cannot be had.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
state=$(realpath -m "${1:?usage: $0 STATE_DIR}")
host=$(hostname -s)
cpus=32 # of each node
gpus=4
mem=256000 # MB
mkdir -p "$state"/{bin,ctld,log,debs/partial,lists/partial}

# --- packages: a package list of our own, so that the machine's stays as it is ---
apt=(apt-get -qq -o Dir::State::lists="$state/lists" -o Dir::Cache="$state" -o Dir::Cache::archives="$state/debs" -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
{ "${apt[@]}" update && "${apt[@]}" install --download-only --no-install-recommends --yes slurm-wlm munge; } || exit 77
for package in "$state"/debs/*.deb; do dpkg -x "$package" "$state/root"; done
# Debian's alternatives, which no one has set up here: a daemon of another name would take itself for a client.
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
port=$((20000 + $$ % 20000)) # so that two of these can run at once
fill+=(-e "s|@PORT@|$port|g" -e "s|@PORT1@|$((port + 1))|g" -e "s|@PORT2@|$((port + 2))|g")
sed "${fill[@]}" "$here/slurm.conf.in" > "$state/slurm.conf"
sed "${fill[@]}" "$here/gres.conf.in" > "$state/gres.conf"
# Present so that slurmd does not look elsewhere; no cgroup plugin is in use.
echo "CgroupPlugin=cgroup/v1" > "$state/cgroup.conf"
# slurmd wants character devices behind its GPUs; it looks at them and never opens them.
for i in $(seq 0 $((gpus - 1))); do [ -e "$state/gpu$i" ] || mknod "$state/gpu$i" c 1 3; done

# --- daemons ---
"$state/root/usr/sbin/mungekey" --create --keyfile="$state/munge.key"
# --force: only root's programs use the socket, and a test's folder may be closed to others.
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
