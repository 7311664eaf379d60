#!/usr/bin/env bash
# Trains on several machines with torchrun. Run it on each of them, with the same arguments:
#
#   NODES=2 NODE=0 FIRST=10.0.0.1 deploy/train-torchrun.sh /mnt/shared/dataset /mnt/shared/run
#   NODES=2 NODE=1 FIRST=10.0.0.1 deploy/train-torchrun.sh /mnt/shared/dataset /mnt/shared/run
#
# NODES     machines
# NODE      number of this one, from 0
# FIRST     address of the first one
# PORT      a free port of the first one
# DEVICES   processes of a machine: its GPUs
# RESTARTS  how often all processes are started again when one has died
#
# Dataset and run lie on storage that all machines share. When a process or a machine dies, all
# processes start again and resume from the last checkpoint, which the first process wrote.
set -euo pipefail

dataset=${1:?give the folder of the prepared dataset}
run=${2:?give the folder of the run}

exec python -m torch.distributed.run \
    --nnodes="${NODES:-1}" --node-rank="${NODE:-0}" --nproc-per-node="${DEVICES:-gpu}" \
    --master-addr="${FIRST:-127.0.0.1}" --master-port="${PORT:-29500}" \
    --max-restarts="${RESTARTS:-3}" \
    -m chestxray train "$dataset" --out "$run" --recipe baseline --set order=shards
