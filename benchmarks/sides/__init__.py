"""What runs in the child processes: `measure(spec)` of one side of one benchmark."""
