#!/usr/bin/env bash
# A run under OpenMPI 4, which only starts the processes (the collectives are NCCL's or Gloo's):
#
#     launch/mpi.sh -np 16 --hostfile hosts -- train --config coca_base --workdir W
#
# What stands before `--` goes to mpirun, what follows to coca. One process has one GPU. mpirun
# itself ends the others when one ends with another code than 0. Run it again and it goes on.
# OpenMPI 5 does not say where process 0 is: docs/scale.md has a command for it.
# PYTHON names the interpreter (.venv/bin/python where there is one, else python3).
set -eu
options=()
while [ "$#" -gt 0 ] && [ "$1" != "--" ]; do
    options+=("$1")
    shift
done
if [ "$#" -lt 2 ]; then
    echo "usage: launch/mpi.sh [OPTIONS OF MPIRUN] -- train --config NAME --workdir DIR" >&2
    exit 2
fi
shift
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
each=("$PYTHON" -u -m coca_jax "$@")
case $1 in
    # Shares of a data set: one that is done without some inputs (5) must not end the others.
    caption | embed | score-pairs)
        each=(bash -c 'trap : INT TERM; "$@"; code=$?; [ "$code" -eq 5 ] || exit "$code"' - "${each[@]}") ;;
esac
exec mpirun --bind-to none --tag-output "${options[@]}" "${each[@]}"
