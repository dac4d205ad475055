"""The ground: errors, files, locks, devices, processes. Imports no data and no models."""
