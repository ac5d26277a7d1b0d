#!/bin/bash
# Trains on several nodes of a Slurm cluster. Submit it where `python -m afd_tf.train`
# works; all nodes have to see that folder and the run directory. First comes the run
# directory, then any flags:
#   sbatch examples/scaling/slurm.sh /shared/runs/cifar --flagfile=flags/cifar.cfg
#
#SBATCH --job-name=afd
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
# 120 s before the time is up. Without "B:" it goes to the tasks, not to this script,
# which has to outlive them.
#SBATCH --signal=TERM@120
# When a node is lost, Slurm runs this script again.
#SBATCH --requeue
# All goes on in the same log.
#SBATCH --open-mode=append

set -euo pipefail
run_dir=${1:?is missing: slurm.sh RUN_DIR [flags]}
shift

# Not the same for two jobs on one node; below the ports that Linux gives to others.
port=$((20000 + SLURM_JOB_ID % 10000))
# "node1:port","node2:port", in the order of SLURM_PROCID.
workers=$(scontrol show hostnames "$SLURM_JOB_NODELIST" |
  sed "s/.*/\"&:$port\"/" | paste -sd,)
export workers

options=(
  --cpus-per-task="$SLURM_CPUS_PER_TASK" # not taken over from sbatch by every Slurm
  --kill-on-bad-exit=1                   # else the others wait for the one that failed
  --wait=0                               # a task that ends, ends no other
)
code=0
# exec: each task is Python itself, so that it gets the signal. Python reads TF_CONFIG
# and none of Slurm's variables.
srun "${options[@]}" bash -c '
  task="{\"type\": \"worker\", \"index\": $SLURM_PROCID}"
  export TF_CONFIG="{\"cluster\": {\"worker\": [$workers]}, \"task\": $task}"
  exec python -m afd_tf.train "$@"
' task "$@" --run_dir="$run_dir" || code=$?

# summary.json is the end of a run. Without it, exit code 0 says that a signal came and
# all is saved; any other that something is wrong, which would be wrong again.
if ((code == 0)) && [[ ! -e $run_dir/summary.json ]]; then
  echo "not at its end yet: job $SLURM_JOB_ID goes back to the queue." >&2
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
