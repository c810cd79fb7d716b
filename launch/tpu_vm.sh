#!/usr/bin/env bash
# A run on all workers of a Cloud TPU slice that exists, with this repository and its .venv in
# ~/coca on each of them:
#
#     launch/tpu_vm.sh my-slice us-central2-b train --config coca_base \
#         --workdir gs://bucket/runs/base
#
# Workdirs at gs:// need the extra: .venv/bin/pip install -e '.[tpu,gcs]'.
# The processes find each other by themselves. The run is a child of this command's connections:
# Ctrl-C ends them. FOLDER names another folder on the workers, GCLOUD another gcloud.
set -eu
if [ "$#" -lt 3 ]; then
    echo "usage: launch/tpu_vm.sh NAME ZONE train --config NAME --workdir DIR" >&2
    exit 2
fi
name=$1
zone=$2
shift 2
words=$(printf ' %q' "$@")
folder=$(printf %q "${FOLDER:-~/coca}")
folder=${folder/#\\~/\~}  # the worker's home
exec "${GCLOUD:-gcloud}" compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
    --command "cd $folder && exec .venv/bin/python -u -m coca_jax$words"
