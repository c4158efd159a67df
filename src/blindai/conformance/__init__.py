"""Drive the verifiers from any test suite: one JSON object in, one JSON object out, four exit codes.

    python -m blindai.conformance < request.json > answer.json

`request` says what a request looks like, `forms` in which forms evidence may come, `judgement` decides. Nothing here
is used by the client or the enclave: this is the one place where trust anchors can be replaced.
"""
