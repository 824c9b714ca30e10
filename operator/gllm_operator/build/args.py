"""Arguments of `gllm serve` in a pod. They are equal in all pods of a group; the environment has the differences."""

from __future__ import annotations

from gllm_operator.build.model_source import model_files, served_name
from gllm_operator.build.tracing import tracing_args
from gllm_operator.objects import parse_quantity
from gllm_operator.spec.revision import PodSource


def serve_args(source: PodSource) -> list[str]:
    engine, model, probes = source.engine, source.model, source.probes
    given: list[tuple[str, object]] = [
        ("--host", "0.0.0.0"),
        ("--port", source.port),
        ("--served-model-name", served_name(model)),
        ("--device", source.accelerator.type),
        ("--dtype", model.dtype if model.dtype != "auto" else None),
        ("--max-model-len", model.max_model_len),
        ("--policy", engine.policy),
        ("--max-num-seqs", engine.max_num_seqs),
        ("--max-queued-requests", engine.max_queued_requests),
        ("--max-prefill-tokens", engine.max_prefill_tokens),
        ("--min-prefill-tokens", engine.min_prefill_tokens),
        ("--prefill-iterations", engine.prefill_iterations),
        ("--kv-threshold", engine.kv_threshold),
        ("--ttft-target", engine.ttft_target),
        ("--tpot-target", engine.tpot_target),
        ("--page-size", engine.page_size),
        ("--kv-cache-memory", parse_quantity(engine.kv_cache_memory) if engine.kv_cache_memory else None),
        ("--gpu-memory-utilization", engine.gpu_memory_utilization),
        ("--threads", engine.threads),
        ("--drain-timeout", source.drain_timeout),
        ("--step-timeout", probes.step_timeout_seconds),
        ("--recovery-timeout", probes.recovery_timeout_seconds),
        ("--log-level", engine.log_level),
    ]
    args = ["serve", model_files(model).path]
    for flag, value in given:
        if value is not None:
            args += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    if not engine.prefix_caching:
        args.append("--no-prefix-caching")
    return [*args, *tracing_args(source.tracing), *engine.extra_args]
