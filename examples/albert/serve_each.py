"""Every dialect's example file against servers of the right kinds: reads it, asks each model, prints who answered.

python examples/albert/serve_each.py
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

import litellm
from fast_router_albert import AlbertConfig, load_config

from fast_router.testing import Upstream

HERE = Path(__file__).parent
KINDS = ("albert", "mistral", "openai", "tei", "vllm")
_SERVED = {"tei": "served-embeddings"}
MESSAGES = [{"role": "user", "content": "Who answers?"}]


async def ask(router: litellm.Router, config: AlbertConfig) -> None:
    for model in config.models:
        name = model.aliases[0] if model.aliases else model.id
        match model.type.value:
            case "text-generation" | "image-text-to-text":
                said = (await router.acompletion(model=name, messages=MESSAGES)).choices[0].message.content
            case "text-embeddings-inference":
                answer = await router.aembedding(model=name, input=["Who answers?"])
                said = f"a vector of {len(answer.data[0]['embedding'])}"
            case "text-classification":
                answer = await router.arerank(model=name, query="Who?", documents=["They", "Nobody"])
                said = f"{len(answer.results)} documents ranked"
            case "automatic-speech-recognition":
                said = (await router.atranscription(model=name, file=("hello.wav", b"RIFF"))).text
            case _:
                document = {"type": "document_url", "document_url": "https://example.org/a.pdf"}
                said = f"{len((await router.aocr(model=name, document=document)).pages)} page read"
        print(f"  {name}: {said}")


async def main() -> None:
    upstreams = {kind: Upstream(kind, models=(_SERVED.get(kind, "served-model"),)).start() for kind in KINDS}
    try:
        environ = {f"{kind.upper()}_URL": upstream.url for kind, upstream in upstreams.items()}
        for path in sorted(HERE.glob("*.yml")):
            config = load_config(path, environ=environ)
            print(f"{path.name}: dialect {'/'.join(config.dialects)}, {len(config.model_list)} deployments")
            await ask(litellm.Router(num_retries=0, **config.router_kwargs()), config)
    finally:
        for upstream in upstreams.values():
            upstream.stop()


if __name__ == "__main__":
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    asyncio.run(main())
