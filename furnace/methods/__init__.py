"""Training methods: each turns (network, batch) into losses."""
