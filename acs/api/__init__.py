"""The REST API of hs-acs: operations as records, one edge around them, and their OpenAPI document."""
