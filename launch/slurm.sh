#!/usr/bin/env bash
# Stage A on Slurm nodes: one Ray node a Slurm node, the run as a Ray job on the head.
#   sbatch launch/slurm.sh /shared/runs/one model=/shared/models/start learner.ranks=8 rollout.workers=8
# The environment (.venv, here or by R0_VENV) and OUTPUT must be on a file system that all nodes share.
#SBATCH --job-name=r0
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --exclusive
#SBATCH --signal=B:TERM@300
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: sbatch $0 OUTPUT [key=value …]" >&2; exit 2; }
output=$(realpath -m "$1"); shift
export PATH="${R0_VENV:-$PWD/.venv}/bin:$PATH"

export RAY_JOB_STOP_WAIT_TIME_S=240                        # a stopped job is killed after this; the default 3 s save nothing
export RAY_AUTH_MODE=token                                 # srun hands the environment to every node
RAY_AUTH_TOKEN=$(openssl rand -hex 32); export RAY_AUTH_TOKEN
nodes=($(scontrol show hostnames "$SLURM_JOB_NODELIST"))
head=${nodes[0]}
ip=$(srun --nodes=1 --ntasks=1 -w "$head" hostname -I | awk '{print $1}')
gpus=${SLURM_GPUS_ON_NODE:-8}

# srun does not take --cpus-per-task over from sbatch; without it Ray may run on one core.
srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" -w "$head" ray start --head --block --disable-usage-stats --node-ip-address="$ip" --port=6379 \
  --dashboard-host=127.0.0.1 --dashboard-port=8265 --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" &
sleep 15
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" -w "$node" ray start --block --address="$ip:6379" \
    --num-cpus="$SLURM_CPUS_PER_TASK" --num-gpus="$gpus" &
done
sleep 15

# This script runs on the first node, so the job server's loopback address is its own. On the time limit Slurm sends TERM 300 s
# before the end: the job is stopped, saves, and the same sbatch command goes on from there.
job=r0-$SLURM_JOB_ID
trap 'ray job stop --address http://127.0.0.1:8265 "$job" || true' TERM
ray job submit --address http://127.0.0.1:8265 --submission-id "$job" -- \
  r0 stage_a algo=grpo "output=$output" "$@" &
wait $! || { code=$?; sleep 120; exit "$code"; }
