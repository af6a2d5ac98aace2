"""Training: replicas, buckets, the step loop, the serial reference, and stock DDP as the peer."""
