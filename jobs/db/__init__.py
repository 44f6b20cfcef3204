"""The database: its tables, its connections, its schema; `queries` holds every SQL statement."""
