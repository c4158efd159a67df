"""Who may do what in an enclave of a cloud, by what the control plane of the measured configuration asserts.

authoriser   keys in force: a look-up for those in use, a question to the control plane for all others
assertions   what is taken of its answers
access       what each route needs, and the one place that decides
queries      the way of a query: who asks, may they, what it counts
quotas       how much an account may do
usage        what was done with each key
reporter     tells the control plane: counts, and which models there are
"""
