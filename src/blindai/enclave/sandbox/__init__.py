"""A confined process for each model: a stranger's program, run where it can read nothing and reach nobody.

`sandbox.Sandbox` loads models, `process.WorkerProcess` runs them from the server's side. The other side is a program of
its own, `nursery`, from which a process is forked for each model: `worker`, inside the limits of `confinement`. Tensors
travel through memory that both see (`slot`), all else in `messages`.

The server holds secrets and the process of a model may be under its author's control. So whatever comes back is
bounded, copied, and only then read.
"""
