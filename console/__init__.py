"""hs-console: the operations console. Reads all clusters, asks their owners, changes nothing itself."""
