"""The commands that build and examine an index: `lemmse build`, `calibrate` and `inspect`, a module each."""
