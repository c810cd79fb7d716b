#!/usr/bin/env bash
# From nothing to a trained, evaluated model: sets up .venv, generates the built-in data set, trains
# on it, evaluates on unseen scenes and writes a report. About six minutes on two CPU cores.
# Run it again after an interruption: it continues where it stopped.
source "$(dirname "$0")/setup.sh"
export PATH="$venv/bin:$PATH"
# Lets glibc ask for huge pages: XLA allocates its buffers anew each step, which costs 5 to 10% with
# pages of 4 kB.
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
run=runs/shapes
coca data prepare shapes
coca train --config shapes --workdir "$run"
coca evaluate --config shapes --workdir "$run"
coca report --workdir "$run"
echo "Open $run/report.html in a browser. To use coca: source ${venv#"$PWD/"}/bin/activate"
