"""The API of hs-acs as both sides see it: its records, and a client."""
