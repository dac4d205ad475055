"""The ground: errors, files, locks, devices, processes. Knows no data and no models."""
