#!/usr/bin/env bash
# One step of the GPU benchmarks, each a command of less than 8 minutes:
#
#     bash benchmarks/gpu/run_all.sh STEP [FOLDER]
#
# in the source tree's root. STEP is 1 to 7, or `quick` (everything at tiny sizes, on any machine).
# README.md beside this says what each step is for and what it needs.
set -euo pipefail

step=${1:?which step? 1 to 7, or quick}
out=${2:-build/gpu}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1

failed=0
part() {  # seconds, module, options
    local seconds=$1 module=$2
    shift 2
    echo "--- $module $*"
    timeout "$seconds" python3 -m "benchmarks.gpu.$module" --out "$out" "$@" || {
        echo "--- $module: exit code $? (124 is the time limit)"
        failed=1
    }
}

case $step in
1)
    part 60 limits
    part 400 check
    ;;
2)
    part 60 limits
    part 400 kernels
    ;;
3)
    part 230 workload --limit-s 200
    part 230 peers transformers --cases workload --limit-s 200
    ;;
4) part 460 streams --limit-s 400 ;;
5) part 460 peers transformers-tuned --cases workload streams --output-len 256 --limit-s 400 ;;
6)
    part 230 peers transformers --cases streams --output-len 256 --limit-s 200
    part 230 streams --output-len 256 --limit-s 150
    ;;
7)
    part 230 peers vllm --cases workload
    part 230 peers vllm --cases streams --output-len 256
    ;;
quick)
    for module in limits check kernels workload streams; do
        part 300 "$module" --quick
    done
    part 300 peers transformers --quick
    ;;
*)
    echo "no step $step" >&2
    exit 2
    ;;
esac
exit $failed
