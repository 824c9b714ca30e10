#!/usr/bin/env bash
# Serve a dummy model on GPUs and measure workloads over HTTP, one after the other, as docs/performance.md reports them.
#
#     benchmarks/gpu_serve.sh SHAPE OUT_FOLDER WORKLOAD:NUM_PROMPTS[:RATE] ... [-- SERVE_FLAGS]
#     benchmarks/gpu_serve.sh qwen3-8b /tmp/out sharegpt:1000 decode:256 -- --policy chunked_prefill
#
# The first 100 requests of the server are warm-up and not counted, as in the figures of other servers.
set -euo pipefail
shape=$1 out=$2; shift 2
workloads=(); while [ $# -gt 0 ] && [ "$1" != "--" ]; do workloads+=("$1"); shift; done
[ $# -gt 0 ] && shift
port=${PORT:-8300} here=$(dirname "$0") model=$(mktemp -d)
mkdir -p "$out"
python3 "$here/dummy_model.py" "$shape" "$model" >/dev/null
python3 -m gllm serve "$model" --load-format dummy --device cuda --dtype bfloat16 --port "$port" --max-model-len 8192 \
  --max-num-seqs 1024 --max-prefill-tokens 8192 --no-prefix-caching --log-level info "$@" >"$out/server.log" 2>&1 &
server=$!
trap 'kill $server 2>/dev/null; wait $server 2>/dev/null; rm -rf "$model"' EXIT
started=$SECONDS
until curl -sf "http://127.0.0.1:$port/ready" >/dev/null; do
  kill -0 $server 2>/dev/null || { cat "$out/server.log"; exit 1; }
  [ $((SECONDS - started)) -lt 300 ] || { echo 'not ready in 300 s'; tail -50 "$out/server.log"; exit 1; }
  sleep 0.2
done
echo "ready in $((SECONDS - started)) s"
warm=100
for workload in "${workloads[@]}"; do
  IFS=: read -r name count rate <<<"$workload"
  echo "== $name $count @${rate:-inf}"
  python3 -m gllm bench serve --url "http://127.0.0.1:$port" --workload "$name" --num-prompts "$count" \
    --request-rate "${rate:-inf}" --num-warmups $warm --output "$out/$name.json"
  warm=0
done
