"""A model on loan: what the enclave may do with it, for whom, how often and until when.

    clock   time that nobody can set
    state   what the custodian has granted and said, and what follows from it; touches nothing
    meter   who has how many units; what was spent
    chain   signed records of what was spent
    tokens  who asks
    gate    the way of a query to the leased model
    line    a connection to the custodian
    model   the sealed model, opened into memory and wiped from it
    keeper  keeps the lease: renews, watches, wipes, closes

`borrowing` puts them together.
"""
