"""One module for each screen: its columns, how a row looks, and what its actions ask for."""
