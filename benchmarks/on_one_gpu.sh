#!/usr/bin/env bash
# Three trainings for a machine with one GPU and no network, each complete within its minutes.
#
#   benchmarks/on_one_gpu.sh pack [a] [b] [c]     here: gather photos and wheels in gpu_pack/, at most 55 MB
#   benchmarks/on_one_gpu.sh a [--dry-run]        there, 9 min: the starter, judged on photos that it has not seen
#   benchmarks/on_one_gpu.sh b [--dry-run]        there, 9 min: product photos at 256 px, grid, FD, KID
#   benchmarks/on_one_gpu.sh c [--dry-run]        there, 5 min: a UNet compiled in bf16 beside eager float32, MFU
#
# It needs the checkout and gpu_pack/ (PACK names another folder), and a Python (PYTHON, by default python3) with torch,
# transformers, accelerate, Lightning and their like; wheels of the rest are in gpu_pack/. Results lie in OUT, by default
# gpu_out/. `pack` needs a Python with pip and Pillow; its further options are those of benchmarks/pack_for_gpu.py.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
pack=${PACK:-$root/gpu_pack}
out=${OUT:-$root/gpu_out}
python=${PYTHON:-python3}
part=${1:-}

usage() {
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
}

case $part in
    pack)
        shift
        exec "$python" "$root/benchmarks/pack_for_gpu.py" pack "$pack" "$@"
        ;;
    a | b) seconds=540 ;;
    c) seconds=300 ;;
    -h | --help)
        usage
        exit 0
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac
shift

SECONDS=0
site=$(mktemp -d)
trap 'rm -rf -- "$site"' EXIT
wheels=()
while IFS= read -r wheel; do
    if [[ -n $wheel ]]; then
        wheels+=("$wheel")
    fi
done < <("$python" "$root/benchmarks/pack_for_gpu.py" missing "$pack")
if ((${#wheels[@]})); then
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "${wheels[@]}"
fi
export PYTHONPATH="$site:$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
left=$((seconds - SECONDS))
# Python ends by itself; the limit is for a part that does not.
timeout --kill-after=10 "$left" \
    "$python" "$root/benchmarks/on_one_gpu.py" "$part" --pack "$pack" --out "$out" --seconds "$((left - 10))" "$@"
