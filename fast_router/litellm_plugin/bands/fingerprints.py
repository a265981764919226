"""Which functions of LiteLLM the bookkeeping features know, by the hash of their source.

A feature that stands in for a function, or that calls it with looked-up values, relies on what the
function does. So each names the functions it relies on, and is off where one of them reads
differently from every version it was checked against: 1.83.14, 1.91.0, the first and the last release of each minor
version from 1.99 to 1.106, 1.106.2, 1.108.0, 1.108.14 and 1.109.1.
"""

from __future__ import annotations

import hashlib
import inspect
from typing import TYPE_CHECKING, Any

from fast_router import settings

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["KNOWN", "fingerprint", "is_enabled", "is_known", "member"]

#: Function → the fingerprints of its source that we have read and tested, oldest version first.
KNOWN: dict[str, frozenset[str]] = {
    name: frozenset(prints.split())
    for name, prints in {
        "deployment_callback_on_success": (
            "f8cfd29e4e8a b5102ce8d715 6be1e1c077a0 424940e7d5af 9d5f773ad347 9fe2f2adb8a4 983dc71ad4ee"
        ),
        "_increment_deployment_usage": "8e425a6823f0",
        "increment_deployment_usage_for_response": "89a41439ad7f 8b2eca3478a4",
        "get_remaining_model_group_usage": "d9bc6030c0dd c78c156ecbea f5fb54fa9451 0c3729327245",
        "get_model_group_usage": "8ba20cb793d0 3235a3d593ec d487a7324c40 724385007386",
        "get_model_list": "f75478308755 8e2bd63cc65d 0cbf2bb6d5db 82f8e8f6fbf5 3e024161f456",
        "_is_prompt_management_model": "1c48b3c542a0 9de1c28d960f c6794b539a89",
        "_handle_mock_testing_rate_limit_error": ("0325cc5fcdc9 12ce283eba1e 74e8d503bb73 6fc6559b45de 8669e1c8d42c"),
        "async_service_success_hook": "135d06fb6994 148cac0730ce 081877b725c1 3c6fde163653 736c1c9b9154",
        "print_deployment": "cc683cd91766 93187fd0c256 c9c31175da48 6e96bdb612ae",
        "get_deployment": "af6506a307e9 7c4af5e4db72 19f8191467aa",
        "_pre_call_checks": (
            "daa532dfac17 4c6e2431fd83 cddb97a7c7b2 d444f9908d62 a52c7d3dc4f1 a78f43157b3e 233c7840192f 9b4bf6a8f988"
        ),
        "register_model": (
            "d23cf3403e32 b33179e0b792 3024770ab9cd 69c643aafd16 fe465ed10a17 6028e1e6c232 0f7351fcf5e9 "
            "475499b5d38b 019a9f22108a e857cf1d501a 4b4f1c3e6f97 ff1538d8ac17 173b78f105a1 85a74f0a7f97"
        ),
        "_rebuild_model_cost_lowercase_map": "6406ef05e540 48a66ce63256 deda60a1c1a7",
        "_invalidate_model_cost_lowercase_map": "7c249fb2f035 448c5f362cd1 b896fe5ff7ce 2634504a238a",
        "InMemoryCache.get_cache": "50cbbebf71a1 448de700b1d8 95de469b15c0",
        "InMemoryCache.batch_get_cache": "d4b05685d939 0d3daeeff23c",
        "InMemoryCache.async_batch_get_cache": "1f7e55dc0cc7 b33251d65783",
        "_return_pattern_matched_deployments": "f55ef8485074 14f8019d7a22 dd423da0cbed 13749d86f681",
        "async_get_cooldown_deployments": "11c844c20325 cd277f379c1d 85493bbac2a0 b19fed74c8fa 738605eff93c",
        "get_cooldown_deployments": "7f27f6794a88 4f743a66227a ed51fa5f9407 f2dd1b999087 6eb41c992890",
        "LowestLatency._get_available_deployments": (
            "279f1293b849 a64d28cf66d3 d3d3a77d2345 6ff8a9cfd85d 09a91fbe2cec"
        ),
        "LowestCost.async_get_available_deployments": "5ec637dcde32 3b3a74b343f9 2c96b2d06395 3ec2ece770b5",
        "LowestTPM.get_available_deployments": "a7846b61f4d3 a06f33542637 65644c985ddb 510ec62f55b1",
        "LowestTPM_v2._common_checks_available_deployment": ("fb4bd69ab653 4b785734e0f5 0dd25f248091 433d29393226"),
        "get_hidden_params_dict": "f4ae547771c5",
        "_write_hidden_params": "c8f1d2e5976a 339ae2cd3877",
        "prepare_response_for_header_attachment": "0e985494b935",
        "complexity_router_decision_headers": "f868e97658d0",
        "_clear_reservation_from_kwargs": "50b7a4909647",
        "_reservation_channels": "ea6b815ea3f7",
        "refund_stale_reservation_before_retry": "4f8090f3c806",
        "set_io_token_rate_limit_request_kwargs": "7898050435e2",
        "get_parent_otel_span_from_kwargs": "1827897ce040 b8690d5ce7c9 96437650840c",
        "_deployment_that_just_failed": "83bd3b3bd2c1",
        "_handle_mock_testing_fallbacks": "5aebb9c204c1 9765a7767bd7 75065c246b46",
        "_update_kwargs_with_deployment": "607173183391 35c1a74fc955 5560785cf282 0b70255dc1c6",
        "_get_client": "ca0bf95d394a 7dcf335770ba",
        "is_async_callable": "fa11f77a59f8 1f91b623db64 7d7549685a3d 8b5864733914",
        "set_max_parallel_requests_client": "b9b5af611498 fdc1da03236e",
        "LowestLatency.log_success_event": "53062d625984 97fbd34b387c f7d10ac15bd4 d63f043642c2",
        "LowestLatency.async_log_success_event": "6742da38760f a8b130b39cf8 592526844ba9 9f4c5edcc602",
        "LowestLatency.async_log_failure_event": "b2c0e9379b04 525ddbc7cd32 b69bf5fd4211 ba7efe3420a6",
        "LowestCost.log_success_event": "011387665ac7 7f7839f01056 160df4f71027",
        "LowestCost.async_log_success_event": "6200173247c5 3d3ab5e36506 ec351c49039a",
        "LeastBusy.log_pre_api_call": "97e584962391 092c38ae1114",
        "LeastBusy.log_success_event": "0a47a9b372a7 1f68142775a5",
        "LeastBusy.log_failure_event": "adde81ec4b6a 5d9a80450e08",
        "LeastBusy.async_log_success_event": "1bf158a13f13 900d1cf4bdf4",
        "LeastBusy.async_log_failure_event": "fbbef71868dd 0f45c2a8d46c",
        "LowestTPM_v2.log_success_event": "29cc7aaf87ba 8cc5113c1c35 ec5f68c7be85",
        "LowestTPM_v2.async_log_success_event": "253da83c4ac1 b494cef63875 50c3a223a3ba dc284f1d3513",
        "LowestTPM_v2.pre_call_check": "74b9248260e7 82422865117d",
        "LowestTPM_v2.async_pre_call_check": "25686a524b31 aaa83fb03641",
        "_update_usage": "e85e6c9bb2b7",
        "increment_deployment_successes_for_current_minute": "0d824e2a9f4d",
        "find_deployment_metadata": "c60ec14e11b6",
        "apply_response_model_id": "880b61a788da",
        "InMemoryCache.set_cache": "226b3a9b252e d1b90bb7021e 73707f12ed18",
        "InMemoryCache.evict_cache": "e092b9eb9dfe b47761df7da6 4671d22693b8",
        "InMemoryCache.increment_cache": "6b6fb1474f04",
        "InMemoryCache.allow_ttl_override": "19a342e1e084 81f7b2eae2b4 e2d6bd44cae4",
        "get_model_access_groups": "b93c2a12e0b5 78a30e0053e0 fd315bfc2d55",
        "_get_deployment_default_limit": "cd263a58ed67 0f4b49b94c1c",
        "policy_for_model": "6cfe14d86815",
        "check_and_merge_model_level_guardrails": "629a409491d9",
        "deployments_for_request": "fd95309514d7",
        "_seed_request_destinations": "c7685468c8f1",
        "is_exception_related_to_db": "c60d02aa4421 5c5944dfd6ca",
        "get_router_metadata_variable_name": "01ba9d3a642b 568da015e6f2",
        "set_model_list": "4fa28b9bd0ea 9b1970977873 ccb7ac2eef78 837a3151c326 876bc63a65d1",
    }.items()
}


def fingerprint(function: Callable[..., Any]) -> str | None:
    """Twelve hex digits that stand for the source of ``function``; None where it has no source."""
    try:
        source = inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError):
        return None
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def is_known(name: str, function: Callable[..., Any] | None) -> bool:
    """Whether ``function`` reads as one of the versions of ``name`` that we know."""
    return function is not None and fingerprint(function) in KNOWN[name]


def member(owner: type, *names: str) -> tuple[str, Callable[..., Any]] | None:
    """The first of ``names`` that ``owner`` itself defines as a plain function, with that function."""
    for name in names:
        found = vars(owner).get(name)
        if isinstance(found, staticmethod):
            found = found.__func__
        if inspect.isfunction(found):
            return name, found
    return None


def is_enabled(feature: str) -> bool:
    """Whether the setting ``disabled_features`` leaves ``feature`` on."""
    return feature not in settings.current().disabled_features
