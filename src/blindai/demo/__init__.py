"""Stories that show on one machine what the programs do."""

import blindai.enclave.engines  # noqa: F401  # before ONNX Runtime, which would report to its maker
