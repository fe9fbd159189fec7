#!/usr/bin/env bash
# Stop the daemons that slurm-up.sh started in STATE_DIR, by their recorded process ids.
#   slurm-down.sh STATE_DIR
state=$(realpath -m "${1:?usage: $0 STATE_DIR}")
"$state/bin/scancel" --user "$(id -un)" 2> /dev/null # jobs left by a failed test
running() { [ -n "$(ps -o stat= -p "$1" | grep -v '^Z')" ]; }
for file in "$state"/slurmd-*.pid "$state/slurmctld.pid" "$state/munged.pid"; do
    [ -s "$file" ] || continue
    pid=$(cat "$file")
    kill "$pid" 2> /dev/null || continue
    for _ in $(seq 20); do running "$pid" || continue 2; sleep .25; done
    kill -9 "$pid"
done
