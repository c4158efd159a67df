from __future__ import annotations

import threading

import pytest

from blindai.enclave.engines.onnxruntime import OnnxRuntimeEngine
from blindai.enclave.trial.budget import Budget
from blindai.enclave.trial.draw import Shape, Values, draw
from blindai.errors import QuotaExceeded
from blindai.wire.tensor import Tensor
from enclave_server import looping_model


def test_a_run_beyond_the_limit_is_stopped() -> None:
    session = OnnxRuntimeEngine().load(looping_model(8), {})
    endless = {
        name: Tensor(name, tensor.datatype, tensor.data + 1e18)
        for name, tensor in draw(session.inputs, Shape(), seed=0, values=Values.ORDINARY).items()
    }
    with Budget(60, 0.2) as budget, pytest.raises(QuotaExceeded) as caught:
        budget.run(session, endless)
    assert caught.value.code == "quota.load_time"


def test_no_run_begins_beyond_the_limit() -> None:
    session = OnnxRuntimeEngine().load(looping_model(8), {})
    with Budget(60, 0) as budget:
        budget._timer.join()
        with pytest.raises(QuotaExceeded) as caught:
            budget.run(session, draw(session.inputs, Shape(), seed=0))
    assert caught.value.code == "quota.load_time"


def test_the_thread_that_watches_ends_with_it() -> None:
    before = threading.active_count()
    with Budget(60, 60) as budget:
        assert 59 < budget.left <= 60
    assert threading.active_count() == before
