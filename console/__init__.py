"""hs-console: the operations console. Not built yet; the package keeps its place."""
