"""The gRPC server: it decodes a request, calls the estimator once and encodes the answer.

All numerical work is in `lemmse.estimator`. The server is asynchronous, and its event loop runs in a thread
of its own (`loop`). `listening` opens the sockets, `receiving` reads and decodes requests, `sending` sends
answers, `service` contains the servicers, and `health` the health service. `items` assembles the items of a
stream, and `streams` answers them. `limits` refuses what can never be served; for the rest, `memory` holds
memory, `admission` places, and `open_calls` ends silent calls that have to make room. `compute` runs
computations outside of the loop, in turns whose order `turns` and `shares` determine; `callers` names the
clients. `aside` decodes and encodes large messages, and `heap` returns freed memory.
`calls` logs each call, `failures` converts errors to the messages that clients receive, and `lifecycle`
starts and drains the server.

`catalogue` contains the loaded indexes, `watch` follows their folders, and `admin` is the servicer that
changes them. `command` and `token_command` are the commands serve and token.

`config` contains the settings, `settings` what a setting is, and `sources` reads them. Before a call is
received, `interceptor` identifies, checks, counts and times it, with `request_id`, `access`, `tokens` and
`metrics`; `tracing` makes it a span. `around` is what both share. `tls` and `changing` read certificates and
tokens again when their files change, `connections` limits connections, and `logs` writes the log.

This module imports nothing, because the command sets OMP_NUM_THREADS before it imports torch and FAISS, which
read the variable only once. Programs start a server with `lemmse.server.lifecycle.Server`.
"""
