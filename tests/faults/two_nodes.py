"""A Ray cluster of two nodes on loopback: prints its address, kills the second node at a line of input."""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.2"}  # Ray takes 127.0.0.1 for another address of the machine

if __name__ == "__main__":
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        doomed = cluster.add_node(**NODE)
        print("cluster at", cluster.address, flush=True)  # noqa: T201
        if sys.stdin.readline():
            cluster.remove_node(doomed, allow_graceful=False)
            print("killed", flush=True)  # noqa: T201
            sys.stdin.read()
    finally:
        cluster.shutdown()
