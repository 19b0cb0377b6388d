"""The commands that make and examine an index: lemmse build, calibrate and inspect, a module each."""
