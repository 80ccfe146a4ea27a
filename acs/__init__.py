"""hs-acs: admission, quotas, placement and rebalancing over all clusters of a deployment."""
