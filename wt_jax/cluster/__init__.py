"""Several processes as one run: start, barriers, heartbeat, lock, preemption."""
