"""What a server says of itself and of its models: the messages of the Open Inference Protocol V2 other than inference.

Sources: Open Inference Protocol V2, REST, "Server Metadata", "Model Metadata", "Server Live", "Server Ready", "Model
Ready"; Triton's extensions "Model repository" and "Statistics". Encode with `msgspec.json.encode`, decode with
`msgspec.json.decode(body, type=...)`; members added by a newer server are ignored.
"""

from __future__ import annotations

import msgspec

from blindai.wire.tensor import quoted
from blindai.wire.trial import ModelTrial

EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics")
"""The extensions of the protocol, by the names Triton gives them, that the enclave offers."""

VARIABLE = -1
"""A dimension of `TensorMetadata.shape` that each request may choose."""


class TensorMetadata(msgspec.Struct, frozen=True):
    """An input or output of a model.

    Attributes:
        name: the name to send or ask for.
        datatype: V2 datatype, a key of `blindai.wire.datatype.DATATYPES`.
        shape: the dimensions, `VARIABLE` where the request decides.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{quoted(self.name)} {self.datatype} {list(self.shape)}"


class ServerMetadata(msgspec.Struct, frozen=True):
    """Answer of `GET /v2`."""

    name: str
    version: str
    extensions: tuple[str, ...] = EXTENSIONS


class ServerLive(msgspec.Struct, frozen=True):
    """Answer of `GET /v2/health/live`."""

    live: bool


class ServerReady(msgspec.Struct, frozen=True):
    """Answer of `GET /v2/health/ready`."""

    ready: bool


class ModelReady(msgspec.Struct, frozen=True):
    """Answer of `GET /v2/models/{model}/ready`."""

    name: str
    ready: bool


class ModelMetadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """Answer of `GET /v2/models/{model}`.

    Attributes:
        name: the model's id, `namespace/name`.
        versions: those that may be asked for, decimal strings, oldest first.
        platform: the engine, `onnxruntime_onnx` for ONNX Runtime as in Triton.
        inputs, outputs: the tensors, in the model's order.
        leased: the model is on loan from a custodian, who meters it and may stop it.
        task: what a model that takes text does with it, `embed` or `classify`.
        labels: of a classifier of text, in the order of its scores.
        trial: how it is run, and what was measured to choose that; None where it was not tried out.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]
    leased: bool = False
    task: str = ""
    labels: tuple[str, ...] = ()
    trial: ModelTrial | None = None


class ModelUploaded(msgspec.Struct, frozen=True):
    """Answer of an upload, `PUT /v2/repository/models/{namespace}/{name}`.

    Attributes:
        name, version, platform, inputs, outputs: as in `ModelMetadata`.
        sha256: digest of the uploaded body, in hex: what the enclave holds is what the uploader sent.
        size: bytes of the uploaded body.
    """

    name: str
    version: str
    sha256: str
    size: int
    platform: str
    inputs: tuple[TensorMetadata, ...]
    outputs: tuple[TensorMetadata, ...]


class RepositoryIndexRequest(msgspec.Struct, frozen=True):
    """Body of `POST /v2/repository/index`.

    Attributes:
        ready: list only the models that can answer now.
    """

    ready: bool = False


class RepositoryModel(msgspec.Struct, frozen=True):
    """One element of the list that answers `POST /v2/repository/index`.

    Attributes:
        name: the model's id.
        version: a decimal string; empty where no version was ever loaded.
        state: `READY`, `LOADING`, `UNLOADING` or `UNAVAILABLE`.
        reason: why it is in that state; empty where there is nothing to say.
        visibility: who else may query it, where there are accounts (`wire.cloud.Visibility`).
    """

    name: str
    version: str = ""
    state: str = ""
    reason: str = ""
    visibility: str | msgspec.UnsetType = msgspec.UNSET


class Duration(msgspec.Struct, frozen=True):
    """How often something happened, and the nanoseconds it took in all."""

    count: int = 0
    ns: int = 0


class InferenceStatistics(msgspec.Struct, frozen=True):
    """Where the time of a model's requests went; `success` and `fail` are whole requests, the others parts of them."""

    success: Duration = Duration()
    fail: Duration = Duration()
    queue: Duration = Duration()
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()
    cache_hit: Duration = Duration()


class BatchStatistics(msgspec.Struct, frozen=True):
    """Runs that answered so many requests at once.

    Attributes:
        batch_size: requests of one run.
        compute_input, compute_infer, compute_output: runs, and where their time went.
    """

    batch_size: int
    compute_input: Duration = Duration()
    compute_infer: Duration = Duration()
    compute_output: Duration = Duration()


class MemoryUsage(msgspec.Struct, frozen=True):
    """Memory of one device.

    Attributes:
        type: `CPU`.
        id: of the device.
        byte_size: bytes that the model holds now.
    """

    type: str = "CPU"
    id: int = 0
    byte_size: int = 0


class ModelStatistics(msgspec.Struct, frozen=True):
    """One version of a model since the server started.

    Attributes:
        name, version: which.
        last_inference: milliseconds since the Unix epoch; 0 where there was none.
        inference_count: requests answered, each element of a batch counted.
        execution_count: runs of the model.
        inference_stats: where the time went.
        batch_stats: the same by the number of requests that one run answered, smallest first.
        memory_usage: what it holds in memory; empty while it is on disk alone.
        state: as in `RepositoryModel`.
        resident: whether it is in memory. A version that is not is brought back by the next request.
        engine: what runs it, and `threads` of one run; empty and 0 where that is not known.
        max_batch: requests that may run as one.
    """

    name: str
    version: str
    last_inference: int = 0
    inference_count: int = 0
    execution_count: int = 0
    inference_stats: InferenceStatistics = InferenceStatistics()
    batch_stats: tuple[BatchStatistics, ...] = ()
    memory_usage: tuple[MemoryUsage, ...] = ()
    state: str = ""
    resident: bool = False
    engine: str = ""
    threads: int = 0
    max_batch: int = 1


class StatisticsResponse(msgspec.Struct, frozen=True):
    """Answer of `GET /v2/models/{model}/stats`."""

    model_stats: tuple[ModelStatistics, ...]
