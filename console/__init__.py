"""hs-console: the operations console. It reads all clusters and asks their owners; it changes nothing itself."""
