"""What commands print: formats, tables, progress."""
