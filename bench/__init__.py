"""The latency lab: load generators, engine measurements, reports."""
