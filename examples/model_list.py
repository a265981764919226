"""`litellm.model_list` that routes: assign deployments, then call LiteLLM's functions by model name.

Two real servers on loopback, one of them failing a third of its requests. Run it as it is:

    python examples/model_list.py
"""

from __future__ import annotations

import asyncio
from collections import Counter

import litellm

import fast_router  # before or after litellm
from fast_router.testing import Behaviour, Fleet, Spec

QUESTION = [{"role": "user", "content": "Hello"}]


async def main() -> None:
    with Fleet([Spec(name="steady"), Spec(name="flaky", behaviour=Behaviour(error_rate=0.3))]) as fleet:
        fast_router.configure(strategy="peak_ewma", router_settings={"num_retries": 3})
        litellm.model_list = [
            {
                "model_name": "assistant",
                "litellm_params": {"model": "openai/test-model", "api_base": up.api_base, "api_key": "none"},
                "model_info": {"id": up.name},
            }
            for up in fleet.values()
        ]

        # Chat, embeddings, streams, sync calls: all go by model name, with retries on the other deployment.
        answers = await asyncio.gather(*(litellm.acompletion(model="assistant", messages=QUESTION) for _ in range(40)))
        print("answers from", dict(Counter(answer._hidden_params["model_id"] for answer in answers)))
        print("embedding of length", len(litellm.embedding(model="assistant", input=["Hello"]).data[0]["embedding"]))
        stream = await litellm.acompletion(model="assistant", messages=QUESTION, stream=True)
        print("streamed:", "".join([chunk.choices[0].delta.content or "" async for chunk in stream]))

        # The list is watched: what is appended answers at the next call.
        litellm.model_list.append({**litellm.model_list[0], "model_name": "second", "model_info": {"id": "second"}})
        print(litellm.completion(model="second", messages=QUESTION).choices[0].message.content)

        picks = fast_router.status()["picks"]
        print(f"{picks['fast']} fast picks, {picks['delegated']} delegated")


if __name__ == "__main__":
    asyncio.run(main())
