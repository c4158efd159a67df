"""What a model answered, in the form the caller works with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from blindai.attestation.result import AttestationResult
from blindai.errors import BlindAIError, ConfigurationError
from blindai.wire.tensor import Tensor, quoted
from blindai.wire.v2 import InferResponse

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from blindai.client.receipt import Receipt


class Output:
    """One output of a model.

    Attributes:
        name: as the model calls it.
        datatype: V2 datatype, such as `FP32`.
        shape: its dimensions.
    """

    __slots__ = ("_tensor", "datatype", "name", "shape")

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor
        self.name = tensor.name
        self.datatype = tensor.datatype
        self.shape = tensor.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of `as_numpy()`."""
        return _bfloat16() if self.datatype == "BF16" else self._tensor.data.dtype

    def as_numpy(self) -> NDArray[Any]:
        """The values as a NumPy array of `shape`.

        It may be read-only, because it shares the memory of the received answer: `copy()` it to write. BYTES are an
        array of objects, each `bytes`; BF16 is the bfloat16 of the ml_dtypes package.
        """
        data = self._tensor.data
        return data.view(_bfloat16()) if self.datatype == "BF16" else data

    def as_torch(self) -> torch.Tensor:
        """The values as a `torch.Tensor` of `shape`, on the CPU, of the same datatype, writable.

        Raises:
            ConfigurationError: `configuration.torch`, PyTorch is not installed.
            BlindAIError: `output.datatype`, PyTorch has no such datatype (BYTES; unsigned integers, before 2.3).
        """
        try:
            import torch
        except ModuleNotFoundError as error:
            if error.name != "torch":  # it is there, and broken: its own words say more
                raise
            message = "PyTorch is not installed"
            hint = "pip install torch, or use as_numpy()"
            raise ConfigurationError(message, code="configuration.torch", hint=hint) from error
        data = self._tensor.data
        if not (data.flags.writeable and data.flags.aligned and data.flags.c_contiguous):
            data = data.copy()
        if self.datatype == "BF16":
            # Bits by way of int16: older PyTorch has no uint16.
            return torch.from_numpy(data.view(np.int16)).view(torch.bfloat16)
        try:
            return torch.from_numpy(data)
        except TypeError as error:
            message = f"output {quoted(self.name)} is {self.datatype}, which PyTorch does not have"
            raise BlindAIError(message, code="output.datatype", hint="use as_numpy() or as_flat()") from error

    def as_flat(self) -> list[Any]:
        """The values as one flat list of Python's own numbers (`bytes` for BYTES), in row-major order."""
        values: list[Any] = self.as_numpy().ravel().tolist()
        return values

    def __array__(self, dtype: np.dtype[Any] | None = None, copy: bool | None = None) -> NDArray[Any]:  # noqa: FBT001  # NumPy passes it so
        return np.array(self.as_numpy(), dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        # Never the values: they are confidential, and what is printed ends up in logs.
        return f"Output({self._describe()})"

    def _describe(self) -> str:
        return f"{quoted(self.name)} {self.datatype} {list(self.shape)}"


class Prediction:
    """The outputs of one run of a model, and the attestation under which it was asked for.

        prediction.output[0].as_numpy()
        prediction["probabilities"].as_torch()

    Attributes:
        model: id of the model that answered, `namespace/name`.
        version: its version; empty where the server did not say.
        output: the outputs, in the order asked for, else the model's.
        attestation: the verdict on the enclave that answered; None where the answer did not come from a connection.
        receipt: the enclave's signed word on this prediction, verified; None unless it was asked for.
    """

    __slots__ = ("attestation", "model", "output", "receipt", "version")

    def __init__(
        self,
        response: InferResponse,
        *,
        attestation: AttestationResult | None = None,
        receipt: Receipt | None = None,
    ) -> None:
        self.model = response.model_name
        self.version = response.model_version
        self.output: tuple[Output, ...] = tuple(map(Output, response.outputs))
        self.attestation = attestation
        self.receipt = receipt

    def __getitem__(self, name: str) -> Output:
        """The output called `name`.

        Raises:
            KeyError: there is none; the message lists those there are.
        """
        for output in self.output:
            if output.name == name:
                return output
        raise KeyError(f"no output {name!r}; there are {', '.join(quoted(output.name) for output in self.output)}")

    def __iter__(self) -> Iterator[Output]:
        return iter(self.output)

    def __len__(self) -> int:
        return len(self.output)

    def __repr__(self) -> str:
        outputs = ", ".join(output._describe() for output in self.output)  # noqa: SLF001  # same module
        version = f" version {self.version}" if self.version else ""
        return f"Prediction({self.model}{version}: {outputs})"


def _bfloat16() -> np.dtype[Any]:
    """NumPy's dtype for BF16; its package is loaded only when an answer holds one."""
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype
