#!/usr/bin/env bash
# Train one of the embedded nets on this machine: launch/local.sh PART [--config.key=value ...]
set -euo pipefail
part=${1:?"name a part: parser, autoencoder, layout or diffusion"}
shift
cd "$(dirname "$0")/.."
# glibc returns large buffers to the system after each use; getting them back costs page faults.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1099511627776 MALLOC_TOP_PAD_=268435456
export MALLOC_ARENA_MAX=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-runs/.jax_cache}
exec "${PYTHON:-.venv/bin/python}" -m hsd_jax.train \
  --config "configs/embedded.py:$part" --workdir "runs/$part" "$@"
