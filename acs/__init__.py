"""hs-acs: admission, quotas, placement and rebalancing. Not built yet; the package keeps its place."""
