#!/usr/bin/env bash
# A run on a SLURM cluster, which goes on after preemption, time limits and lost nodes:
#
#     sbatch --nodes 4 --ntasks-per-node 8 --gpus-per-node 8 launch/slurm.sh train \
#         --config coca_base --workdir /shared/runs/base
#
# One task is one process with one GPU: ask for as many tasks on a node as it has GPUs. Options of
# sbatch on its command line come before those below. The workdir must be seen by all nodes.
# PYTHON names the interpreter (.venv/bin/python where there is one, else python3).
#SBATCH --job-name=coca
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=coca-%j.log
#SBATCH --signal=TERM@120
set -u
cd "${SLURM_SUBMIT_DIR:-.}" || exit 2
if [ "$#" -eq 0 ]; then
    echo "usage: sbatch [OPTIONS] launch/slurm.sh train --config NAME --workdir DIR" >&2
    exit 2
fi
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}

# A signal to the batch script alone (scancel --batch) goes on to the tasks. Without --signal=B:
# the scheduler sends its own to the tasks.
trap 'kill -TERM "$step" 2>/dev/null' TERM
wait=60  # seconds for the others when a task has ended; connected tasks end together
case $1 in caption | embed | score-pairs) wait=0 ;; esac  # shares of a data set: as long as each takes
srun --label --kill-on-bad-exit=0 "--wait=$wait" ${SRUN_OPTIONS:-} "$PYTHON" -u -m coca_jax "$@" &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do  # a trapped signal ends `wait` early
    wait "$step"
    code=$?
done

# 3: stopped by a signal and saved. 4: another process was lost. Above 128: ended by a signal, as
# a task is when its node fails. Each resumes from the last checkpoint; a user error (2) does not.
most=${COCA_MOST_RESTARTS:-100}
if [ "$code" -eq 3 ] || [ "$code" -eq 4 ] || [ "$code" -gt 128 ]; then
    if [ "${SLURM_RESTART_COUNT:-0}" -lt "$most" ]; then
        echo "exit code $code: requeued, restart $((${SLURM_RESTART_COUNT:-0} + 1)) of at most $most"
        scontrol requeue "$SLURM_JOB_ID" && exit "$code"
    fi
fi
exit "$code"
