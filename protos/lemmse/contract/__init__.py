"""The definitions shared by client, server, builder and estimator; they need NumPy and protobuf only.

- `errors`, `status`: the tree of errors, and their conversion to and from `google.rpc.Status`
- `options`: the table of options
- `measurement`, `results`: the inputs and outputs of a reconstruction
- `choices`, `fields`: names of enumeration values, and access to message fields
- `tensors`, `chunks`, `limits`: the encoding of arrays, and its limits
- `messages`: conversion of all of these to and from the messages of `lemmse.v1`
- `address`: network addresses, HOST:PORT
- `lines`: messages as one line
- `threads`: how the threads of GNU OpenMP wait
"""
