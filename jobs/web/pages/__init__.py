"""One module per page of the console: what it reads from the client, and what its forms do."""
