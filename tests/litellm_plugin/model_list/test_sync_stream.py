"""An asynchronous stream read without a loop: its chunks, its errors, and the end of its thread."""

from __future__ import annotations

import gc
import threading

import pytest

from fast_router.litellm_plugin.model_list.sync_stream import SyncStream


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("fast_router-stream")]


def gone():
    for thread in threads():
        thread.join(10)
    return not threads()


def source(chunks, closed, error=None):
    async def call(**_):
        async def produce():
            try:
                for chunk in chunks:
                    yield chunk
                if error is not None:
                    raise error
            finally:
                closed.append(True)

        return produce()

    return call


def test_all_chunks_then_the_end():
    closed = []
    stream = SyncStream(source([1, 2, 3], closed), {"x": 1})
    assert list(stream) == [1, 2, 3]
    assert list(stream) == []
    assert closed == [True]
    assert gone()


@pytest.mark.parametrize("how", ["close", "drop", "never read"])
def test_an_abandoned_stream_is_closed(how):
    closed = []
    stream = SyncStream(source(range(100), closed), {})
    if how != "never read":
        assert next(stream) == 0
    if how == "close":
        stream.close()
        stream.close()
        assert next(stream, None) is None
    del stream
    gc.collect()
    assert gone()
    # A generator that was never begun has nothing to close.
    assert closed == ([] if how == "never read" else [True])


def test_errors_arrive_and_end_it():
    closed = []
    stream = SyncStream(source([1], closed, KeyError("here")), {})
    assert next(stream) == 1
    with pytest.raises(KeyError, match="here"):
        next(stream)
    assert next(stream, None) is None
    assert gone()


def test_an_error_of_the_call_itself():
    async def call():
        raise LookupError("no")

    with pytest.raises(LookupError, match="no"):
        SyncStream(call, {})
    assert gone()
