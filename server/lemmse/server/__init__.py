"""The gRPC server: it decodes a request, calls the estimator once and encodes the answer.

All numerical work is in `lemmse.estimator`. `service` has the servicers, `items` puts the items of a stream
together, `compute` admits calls and runs them in one pool, `calls` logs each call, `failures` decides what a
client reads of an error, `config` has the settings, and `lifecycle` starts and drains the server.

This module imports nothing: the command sets OMP_NUM_THREADS before torch and FAISS, which read it once,
are imported. A program starts a server with `lemmse.server.lifecycle.Server`.
"""
