"""What goes wrong on machines, looked for before it does."""
