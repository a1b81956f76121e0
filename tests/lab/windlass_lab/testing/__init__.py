"""What tests on the lab are written with: the engine, the cluster, Helm, Compose and Swarm as objects."""
