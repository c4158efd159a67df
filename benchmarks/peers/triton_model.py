"""The model for Triton's Python backend, run on ONNX Runtime. Triton copies nothing of it but this file's path."""

from __future__ import annotations

import json
import sys
from typing import Any


class TritonPythonModel:
    """As the backend wants it."""

    def initialize(self, arguments: dict[str, str]) -> None:
        parameters = json.loads(arguments["model_config"])["parameters"]
        sys.path.append(parameters["packages"]["string_value"])
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = parameters["model"]["string_value"]
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        (given,) = self._session.get_inputs()
        (made,) = self._session.get_outputs()
        self._input, self._output = given.name, made.name

    def execute(self, requests: list[Any]) -> list[Any]:
        import numpy as np
        import triton_python_backend_utils as triton

        given = [triton.get_input_tensor_by_name(request, self._input).as_numpy() for request in requests]
        if len({array.shape[1:] for array in given}) > 1:
            raise ValueError("the benchmark sends requests of one shape")
        (result,) = self._session.run(None, {self._input: np.concatenate(given) if len(given) > 1 else given[0]})
        answers, start = [], 0
        for array in given:
            rows = result[start : start + len(array)]
            start += len(array)
            answers.append(triton.InferenceResponse([triton.Tensor(self._output, rows)]))
        return answers
