"""hs-node: the control server of one cluster, and its relay (node.derp)."""
