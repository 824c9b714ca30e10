#!/usr/bin/env bash
# Serve a dummy model on GPUs and measure workloads over HTTP, one after the other, as docs/performance.md reports them.
#
#     benchmarks/gpu_serve.sh SHAPE OUT_FOLDER WORKLOAD:NUM_PROMPTS[:LOAD] ... [-- SERVE_FLAGS]
#     benchmarks/gpu_serve.sh qwen3-8b /tmp/out sharegpt:1000:steady384 decode:256 -- --policy chunked_prefill
#
# LOAD is steadyC (a closed loop of C requests in flight, `gllm bench serve --steady`), a rate in requests per second, or
# inf (the default: all requests at once). WORKLOAD is a name, or IN+OUT for fixed lengths: 8000+4:6:steady1 sends six
# prompts of 8000 tokens, one after the other. For the share of the roofline set GPU, such as GPU=2xH200.
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
  IFS=: read -r name count load <<<"$workload"
  load=${load:-inf} file=$out/$name-$load.json
  case $load in
    inf) flags=() file=$out/$name.json ;;
    steady*) flags=(--steady --max-concurrency "${load#steady}" ${GPU:+--gpu "$GPU" --model-config "$model"}) ;;
    *) flags=(--request-rate "$load") ;;
  esac
  case $name in
    *+*) flags+=(--dataset-name random --input-len "${name%+*}" --output-len "${name#*+}") ;;
    *) flags+=(--workload "$name") ;;
  esac
  echo "== $name $count @$load"
  python3 -m gllm bench serve --url "http://127.0.0.1:$port" --num-prompts "$count" "${flags[@]}" \
    --num-warmups $warm --output "$file"
  warm=0
done
