"""Many gateways that are switched on at once, in simulated time; `benchmarks.storm` runs it."""
