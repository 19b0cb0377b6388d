"""The gRPC server: decodes a request, calls the estimator once, encodes the answer.

Everything numerical happens in `lemmse.estimator`; here are admission, the one compute pool, the
catalogue of errors, and the server's life from start to drain.

This module imports nothing: the command sets OMP_NUM_THREADS before torch and FAISS, which read it once,
are imported. A program starts a server with `lemmse.server.lifecycle.Server`.
"""
