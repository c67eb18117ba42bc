#!/usr/bin/env bash
# Train on this machine: launch/local.sh CONFIG WORKDIR [--config.key=value ...]
#
# PROCESSES=2 starts as many processes, which share the work as the machines of a cluster do; with
# DEVICES=4 each has four virtual CPU devices. For trying out; one process drives many GPUs as well.
set -euo pipefail
config=${1:?"name a config: configs/FILE.py:PART"}
workdir=${2:?"name the folder of the run"}
shift 2
cd "$(dirname "$0")/.."
# glibc returns large buffers to the system after each use; getting them back costs page faults.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1099511627776 MALLOC_TOP_PAD_=268435456
export MALLOC_ARENA_MAX=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-runs/.jax_cache}
if [ -n "${DEVICES:-}" ]; then export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=$DEVICES; fi
command=("${PYTHON:-.venv/bin/python}" -m hsd_jax.train --config "$config" --workdir "$workdir" "$@")
processes=${PROCESSES:-1}
if [ "$processes" = 1 ]; then exec "${command[@]}"; fi

export JAX_COORDINATOR_ADDRESS=localhost:${PORT:-8476} JAX_NUM_PROCESSES=$processes
children=()
for ((i = 0; i < processes; i++)); do
  JAX_PROCESS_ID=$i "${command[@]}" &
  children+=($!)
done
trap 'kill -TERM "${children[@]}" 2>/dev/null || true' TERM INT
while ((${#children[@]})); do
  status=0 ended=
  wait -n -p ended "${children[@]}" 2>/dev/null || status=$?
  if [ -z "${ended:-}" ]; then  # a trapped signal ended `wait`, or a child ended before it
    ended=
    for child in "${children[@]}"; do kill -0 "$child" 2>/dev/null || ended=$child; done
    [ -n "$ended" ] || continue
    status=0
    wait "$ended" 2>/dev/null || status=$?
  fi
  for i in "${!children[@]}"; do
    if [ "${children[$i]}" = "$ended" ]; then number=$i; unset "children[$i]"; fi
  done
  if [ "$status" != 0 ]; then
    why="with status $status"
    if ((status > 128)); then why="by signal $(kill -l "$status")"; fi
    # The others would wait for it in vain. What failed for all, each may say first.
    for ((wait = 0; wait < 50; wait++)); do
      kill -0 "${children[@]}" 2>/dev/null || break
      sleep 0.1
    done
    if ((${#children[@]})); then kill -KILL "${children[@]}" 2>/dev/null || true; fi
    wait 2>/dev/null || true
    echo "launch/local.sh: process $number (pid $ended) ended $why, and with it the run; started" \
      "again with the same folder, it goes on" >&2
    exit "$status"
  fi
done
