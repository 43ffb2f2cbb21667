"""Process and machine: devices, progress bars, GPU locks, launching processes, atomic files, errors."""
