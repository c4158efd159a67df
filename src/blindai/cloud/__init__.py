"""The control plane of a cloud of enclaves: who may do what in them, and nothing of what is done.

It is trusted for that alone. Data, models and their digests never come here.
"""
