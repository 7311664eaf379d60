#!/usr/bin/env bash
# Trains on several machines with torchrun. Run it on each of them, with the same arguments:
#
#   NODES=2 FIRST=10.0.0.1 deploy/train-torchrun.sh /mnt/shared/dataset /mnt/shared/run
#
# NODES     machines
# FIRST     address of the first one
# PORT      a free port of the first one
# DEVICES   processes of a machine: its GPUs
# RESTARTS  how often all processes are started again when one has died
#
# Dataset and run lie on storage that all machines share. When a process or a machine dies, all
# processes start again and resume from the last checkpoint, which the first process wrote. They
# meet by the c10d rendezvous: with the static one (--master-addr) restarted processes wait for dead
# ones for ever.
# TORCH_DISABLE_SHARE_RDZV_TCP_STORE: without it torchrun keeps the addresses of dead processes, and
# restarted ones try to reach those (seen with torch 2.15).
set -euo pipefail
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1

dataset=${1:?give the folder of the prepared dataset}
run=${2:?give the folder of the run}

exec python -m torch.distributed.run \
    --nnodes="${NODES:-1}" --nproc-per-node="${DEVICES:-gpu}" --max-restarts="${RESTARTS:-3}" \
    --rdzv-backend=c10d --rdzv-id=chestxray --rdzv-endpoint="${FIRST:-127.0.0.1}:${PORT:-29500}" \
    -m chestxray train "$dataset" --out "$run" --recipe baseline --set order=shards
