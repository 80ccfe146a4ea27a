"""The entries of the registry, by noun; `console.actions` puts them together."""
