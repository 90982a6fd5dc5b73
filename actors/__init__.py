"""Models, drafters, the target engine and the gRPC ends that join them. No HTTP and no Serve."""
