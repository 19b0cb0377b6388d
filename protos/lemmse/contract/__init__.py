"""The contract between client, server, builder and estimator; it needs NumPy and protobuf only.

`errors` is the one tree of errors and `status` their way over the wire; `options` the table of options,
`measurement` what is reconstructed and `results` what comes back; `choices` the names of enumerations and
`fields` values in message fields; `tensors` and `chunks` how arrays travel, within `limits`; `messages` all
of these as messages of `lemmse.v1`, and back; `address` is HOST:PORT.
"""
