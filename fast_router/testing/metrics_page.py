"""An upstream's /metrics, in the names of vLLM and of Text Embeddings Inference."""

from __future__ import annotations

from fast_router.testing.behaviour import Behaviour
from fast_router.testing.prefix_cache import PrefixCache
from fast_router.testing.records import Records

__all__ = ["page"]


def page(kind: str, model: str, orders: Behaviour, records: Records, cache: PrefixCache | None) -> str:
    """Write the page.

    Args:
        kind: "vllm" or "tei".
        model: The label `model_name`.
        orders: What the server works under.
        records: What it has seen.
        cache: Its prefix cache, if it has one.
    """
    running = records.serving + orders.background_running
    waiting = records.waiting + orders.background_waiting
    if kind == "tei":
        return _family("te_queue_size", "gauge", waiting, "")
    usage = orders.kv_cache_usage
    if usage is None:
        usage = cache.usage if cache is not None else min(1.0, running / (orders.slots or 256))
    labels = f'engine="0",model_name="{model}"'
    lines = [
        _family("vllm:num_requests_running", "gauge", running, labels),
        _family("vllm:num_requests_waiting", "gauge", waiting, labels),
        _family("vllm:kv_cache_usage_perc", "gauge", usage, labels),
    ]
    if cache is not None:
        config = (
            f'block_size="{cache.size}",cache_dtype="auto",enable_prefix_caching="True",engine="0",'
            f'num_cpu_blocks="None",num_gpu_blocks="{cache.capacity}",prefix_caching_hash_algo="sha256"'
        )
        lines += [
            _family("vllm:gpu_cache_usage_perc", "gauge", usage, labels),  # its name until 0.10
            _family("vllm:prefix_cache_queries", "counter", cache.queries, labels),
            _family("vllm:prefix_cache_hits", "counter", cache.hits, labels),
            _family("vllm:cache_config_info", "gauge", 1, config),
        ]
    return "".join(lines)


def _family(name: str, kind: str, value: float, labels: str) -> str:
    sample = f"{name}_total" if kind == "counter" else name
    return f"# TYPE {sample} {kind}\n{sample}{f'{{{labels}}}' if labels else ''} {float(value)}\n"
